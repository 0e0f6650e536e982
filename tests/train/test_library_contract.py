"""What is relied on in TRL, transformers, accelerate and PEFT, by name: an upgrade that changes it
fails here.

The file and line in each comment are those of trl 1.16, transformers 5.23, accelerate and peft 0.21
as first read.
"""

import dataclasses
import inspect

import pytest
from peft import PeftModel
from transformers import LlavaNextVideoModel, PreTrainedModel, Qwen2_5_VLModel, Trainer
from transformers.trainer_callback import DefaultFlowCallback
from trl import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

# ours -> the parameters of the method it overrides or calls
METHODS = {
    "_prepare_dataset": [
        "self",
        "dataset",
        "processing_class",
        "args",
        "dataset_name",
    ],  # dpo_trainer.py:1036
    "_set_signature_columns_if_needed": ["self"],  # dpo_trainer.py:1144
    "_precompute_ref_logps": ["self", "dataset", "name", "batch_size"],  # dpo_trainer.py:1168
    "compute_ref_log_probs": ["self", "model", "inputs"],  # dpo_trainer.py:1243
    "_compute_loss": ["self", "model", "inputs", "return_outputs"],  # dpo_trainer.py:1285
    "_get_grad_norm": ["self", "model", "grad_norm"],  # transformers, before the optimizer's step
    "_save_checkpoint": ["self", "model", "trial"],
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_dpo_trainer_has_the_parameters_relied_on(name: str) -> None:
    assert list(inspect.signature(getattr(DPOTrainer, name)).parameters) == METHODS[name]


def test_the_fused_head_returns_the_fields_that_the_loss_reads() -> None:
    fields = {field.name for field in dataclasses.fields(FusedCausalLMOutput)}
    assert {
        "log_probs",
        "entropy",
        "mean_logits",
        "is_top1",
        "log_sum_sq_probs",
        "aux_loss",
    } <= fields


def test_the_loss_takes_the_reference_from_the_batch_when_precompute_ref_logps_is_set() -> None:
    source = inspect.getsource(DPOTrainer._compute_loss)
    assert "if self.precompute_ref_logps:" in source
    assert 'inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]' in source


@pytest.mark.parametrize("method", [DPOTrainer._compute_loss, DPOTrainer.compute_ref_log_probs])
def test_the_loss_and_the_reference_ask_the_model_for_the_fused_head_with_all_inputs_but_three(
    method: object,
) -> None:
    source = inspect.getsource(method)  # type: ignore[arg-type]
    assert (
        '_non_model_keys = {"completion_mask", "ref_chosen_logps", "ref_rejected_logps"}' in source
    )
    assert "model(**model_kwargs, labels=labels, fused_lm_head=True)" in source


def test_the_fused_head_is_put_on_the_bare_model_and_keeps_its_forward_otherwise() -> None:
    assert "add_fused_lm_head(self.model.get_base_model()" in inspect.getsource(DPOTrainer.__init__)
    source = inspect.getsource(add_fused_lm_head)
    assert "model.forward = types.MethodType" in source
    assert "hidden_states = backbone_outputs.last_hidden_state[:, :-1]" in source


def test_video_columns_are_no_vision_to_trl_so_it_leaves_data_and_evaluation_to_the_hooks() -> None:
    source = inspect.getsource(DPOTrainer.__init__)
    assert (
        'self._is_vision_dataset = "image" in dataset_sample or "images" in dataset_sample'
        in source
    )
    assert "skip_prepare_dataset = self._is_vision_dataset" in source


def test_trl_seeds_before_it_makes_the_adapter_and_casts_it_to_bfloat16_when_quantised() -> None:
    source = inspect.getsource(DPOTrainer.__init__)
    assert source.index("set_seed(args.seed)") < source.index("get_peft_model(model, peft_config")
    assert "param.data = param.data.to(torch.bfloat16)" in source


def test_step_zero_reads_metrics_that_trl_appends_per_forward() -> None:
    source = inspect.getsource(DPOTrainer._compute_loss)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert f'self._metrics[mode]["{name}"].append(' in source


def test_the_trainer_skips_batches_of_a_plain_loader_and_saves_at_the_last_step() -> None:
    source = inspect.getsource(Trainer._run_epoch)
    assert "skip_first_batches(train_dataloader, steps_trained_in_current_epoch)" in source
    assert "control.should_save = True" in inspect.getsource(DefaultFlowCallback.on_step_end)


def test_a_gradient_is_seen_before_the_optimizer_takes_it_and_a_batch_counts_by_its_step() -> None:
    source = inspect.getsource(Trainer._run_epoch)
    assert source.index("self._get_grad_norm(") < source.index("self.optimizer.step()")
    assert "self.current_gradient_accumulation_steps = len(batch_samples)" in source
    assert "loss / self.current_gradient_accumulation_steps" in inspect.getsource(
        Trainer.training_step
    )


@pytest.mark.parametrize("model", [Qwen2_5_VLModel, LlavaNextVideoModel])
def test_models_take_ready_features_and_positions(model: type[PreTrainedModel]) -> None:
    assert "mm_encoder_outputs" in inspect.getsource(model.forward)
    assert "position_ids" in inspect.signature(model.forward).parameters


def test_hooks_that_enabling_checkpointing_adds_can_be_removed() -> None:
    assert "self._require_grads_hooks = hooks" in inspect.getsource(
        PreTrainedModel.enable_input_require_grads
    )
    assert "_require_grads_hooks" in inspect.getsource(PreTrainedModel.disable_input_require_grads)


def test_peft_gives_the_bare_model_and_switches_the_adapter_off() -> None:
    assert callable(PeftModel.get_base_model) and callable(PeftModel.disable_adapter)
