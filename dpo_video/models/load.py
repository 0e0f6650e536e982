"""Load a policy: weights in bfloat16 or 4 bit, frozen, with its processor, position rule and
adapter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from dpo_video.core.control_tokens import ControlTokens
from dpo_video.core.errors import UserError
from dpo_video.core.progress import loading
from dpo_video.core.ranks import local_rank
from dpo_video.models.adapter import add_reference, check_adapter
from dpo_video.models.dtypes import DTYPES
from dpo_video.models.families import Family, Model, VideoProcessor
from dpo_video.models.families.own_file import is_family_file
from dpo_video.models.hearing import take_sound
from dpo_video.models.hub import (
    ModelSpec,
    frame_processor,
    load_config,
    refuse_pickled_weights,
    revision_of,
    weight_names,
)
from dpo_video.models.load_errors import (
    one_line_errors,
    refuse_missing_weights,
    refuse_no_tokenizer,
)
from dpo_video.models.lora import keep_adapter_fp32
from dpo_video.models.names import resolve_model
from dpo_video.models.peft_library import PeftModel
from dpo_video.models.takes_features import take_features
from dpo_video.recipe import JudgeSettings, ModelSettings


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Policy:
    """The model that answers, in eval mode, all parameters frozen."""

    model: PreTrainedModel | PeftModel
    processor: Any
    """The checkpoint's transformers processor; its class differs by family."""
    family: Family
    settings: ModelSettings
    device: torch.device
    dtype: torch.dtype
    revision: str
    """Hub commit, or `sha256:` and a content hash of a local folder."""

    @property
    def bare(self) -> Model:
        """The transformers model inside PEFT's wrapper; adapters that were put in stay active."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def spec(self) -> ModelSpec:
        """Family, config and video processor: what counting tokens needs."""
        return ModelSpec(
            family=self.family, config=self.bare.config, video_processor=self.frame_processor
        )

    @property
    def frame_processor(self) -> VideoProcessor:
        """What resizes frames, see hub.frame_processor."""
        return frame_processor(self.family, self.processor)

    @property
    def pad_id(self) -> int:
        """The id that fills rows up; it is always masked."""
        pad = self.processor.tokenizer.pad_token_id
        return int(self.end_id if pad is None else pad)

    @property
    def end_id(self) -> int:
        """The id that ends an answer: the family's end-of-turn token where the tokenizer has it,
        else its EOS.
        """
        tokenizer = self.processor.tokenizer
        ends = self.family.end_of_turn or ()
        for token in (ends,) if isinstance(ends, str) else ends:
            end_id = tokenizer.convert_tokens_to_ids(token)
            if end_id not in (None, tokenizer.unk_token_id):
                return int(end_id)
        return int(tokenizer.eos_token_id)

    @property
    def end_ids(self) -> list[int]:
        """The ids at which generation stops: those of the checkpoint and `end_id`."""
        eos_ids = self.bare.generation_config.eos_token_id
        listed = eos_ids if isinstance(eos_ids, list) else [] if eos_ids is None else [eos_ids]
        return sorted({*listed, self.end_id})

    @cached_property
    def control_tokens(self) -> ControlTokens:
        """The tokenizer's special tokens, as they are written, with those that end an answer."""
        tokenizer = self.processor.tokenizer
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        ends = tokenizer.convert_ids_to_tokens(self.end_ids)
        return ControlTokens(
            tokens=frozenset([*tokenizer.all_special_tokens, *added, *ends]), ends=frozenset(ends)
        )


def load_policy(
    settings: ModelSettings,
    *,
    adapter: Path | None = None,
    reference: Path | None = None,
    to_shard: bool = False,
) -> Policy:
    """Return the policy of a recipe, with a trained adapter on top if given; `model.adapter` is the
    caller's business.

    Args:
        reference: the adapter that its reference has, see `as_reference`; None where the reference
            is the model alone.
        to_shard: leave the language model in main memory, from where FSDP takes each process's
            share to its device.

    Raises UserError when there is no such checkpoint, adapter, device or attention kernel.
    """
    for folder in filter(None, (adapter, reference)):  # before minutes are spent on weights
        find_adapter(folder)
    config, family = load_config(settings)
    name = resolve_model(settings.name)
    device, dtype = choose_device(settings), choose_dtype(settings)
    source: dict[str, Any] = {
        "revision": settings.revision,
        "trust_remote_code": settings.trust_remote_code,
    }
    setting = _refuse_files(settings, family)
    with one_line_errors(settings.name), loading(settings.name):
        processor = load_processor(settings, family, source)
        model, report = family.auto_model.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            device_map={"": torch.device("cpu") if to_shard else device},
            **source,
            **_weights_of_part(settings, family),
            **_attention(settings),
            **_quantization(settings, family, dtype),
        )
    refuse_missing_weights(model, report, setting=setting)
    model.requires_grad_(False).eval()
    if to_shard:
        move_all_but_language(model, device)
    _prepare(model, family, settings)
    policy = Policy(
        model=_with_adapter(model, adapter, reference),
        processor=processor,
        family=family,
        settings=settings,
        device=device,
        dtype=dtype,
        revision=revision_of(settings, config),
    )
    assert not any(parameter.requires_grad for parameter in policy.model.parameters())
    return policy


def _refuse_files(settings: ModelSettings, family: Family) -> str:
    """Raise UserError for a folder whose files must or can not be loaded; return what errors call
    the setting.
    """
    folder, setting = Path(resolve_model(settings.name)), f"model.name {settings.name!r}"
    refuse_pickled_weights(folder, setting=setting)
    if family.load_processor is None:
        refuse_no_tokenizer(folder, setting=setting)
    return setting


def _prepare(model: Model, family: Family, settings: ModelSettings) -> None:
    """Make of a checkpoint's model what the other parts expect of any, in place."""
    if settings.quantize == "nf4":
        assert_quantized(model, family)
        keep_weights_unpacked(model)
    if family.install_positions is not None:
        family.install_positions(model, settings.positions)
    forget_sampling(model)
    if family.language is not None:
        take_features(model, family)
    take_sound(model, family)
    if settings.family is not None and is_family_file(settings.family):
        check_lora_targets(model, family)


def check_lora_targets(model: Model, family: Family) -> None:
    """Raise UserError where a user's `lora_targets` matches no layer, or one outside the language
    model.
    """
    inside = {id(module) for module in model.get_decoder().modules()}
    matched = {
        name: module
        for name, module in model.named_modules()
        if re.fullmatch(family.lora_targets, name)
    }
    outside = [name for name, module in matched.items() if id(module) not in inside]
    if not matched or outside:
        what = (
            f"matches {outside[0]!r}, outside the language model" if outside else "matches no layer"
        )
        raise UserError(
            f"FAMILY.lora_targets {what}: it must match the full names of the linear layers of "
            f"{type(model).__name__}'s language model, and no others"
        )


def forget_sampling(model: PreTrainedModel) -> None:
    """Leave a model none of its checkpoint's own sampling, which must not mix with the recipe's
    (Qwen2.5-VL ships repetition_penalty 1.05).
    """
    ends = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=model.generation_config.pad_token_id
    )


def load_processor(settings: ModelSettings, family: Family, source: Mapping[str, Any]) -> Any:
    """Return the checkpoint's processor, with the family's chat template where it has none.

    Args:
        source: what `from_pretrained` takes beside the name.
    """
    load = family.load_processor
    name = resolve_model(settings.name)
    processor = (
        AutoProcessor.from_pretrained(name, **source) if load is None else load(name, source)
    )
    if processor.chat_template is None:
        processor.chat_template = family.chat_template
    if processor.chat_template is None:
        raise UserError(
            f"the model {settings.name!r} has no chat template: use its instruction-tuned variant"
        )
    return processor


def language_parameters(model: Model) -> list[nn.Parameter]:
    """Return the parameters of a bare model's language model, embeddings and head included."""
    return [*model.get_decoder().parameters(), *model.get_output_embeddings().parameters()]


def move_all_but_language(model: Model, device: torch.device) -> None:
    """Move tower, projector and whatever else stands beside the language model, in place."""
    language = set(model.get_decoder().modules()) | {model.get_output_embeddings()}
    for module in model.modules():
        if module not in language:
            module._apply(lambda tensor: tensor.to(device), recurse=False)


def language_linears(model: nn.Module, family: Family) -> list[str]:
    """Return the names of the language model's linear layers: what is quantised, and what LoRA
    tunes.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(family.lora_targets, name)
    ]


def assert_quantized(model: nn.Module, family: Family) -> None:
    """Fail unless the linear layers in 4 bit are those of the language model, all of them and no
    other.
    """
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]  # here: importing it takes a second and logs about missing kernels

    in_4bit = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    expected = set(language_linears(model, family))
    assert expected, f"found no linear layer of a language model in family {family.name}"
    assert in_4bit == expected, (
        f"4-bit layers are wrong for family {family.name}: outside the language model "
        f"{sorted(in_4bit - expected)[:5]}, missing in it {sorted(expected - in_4bit)[:5]}"
    )


def keep_weights_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes 0.50 from repacking 4-bit weights at the first forward in eval mode on a
    CPU with AVX512-BF16.

    The packed kernel computes in bfloat16 and gives no gradients (nn/modules.py,
    Linear4bit.forward): a reference made in eval mode would be another model than the one tuned,
    and that one could not be tuned any more.
    """
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def find_adapter(adapter: Path) -> None:
    """Raise UserError where there is no adapter, or one that must not be loaded."""
    if not (adapter / "adapter_config.json").is_file():
        raise UserError(
            f"no adapter at {str(adapter)!r} (no adapter_config.json in it); make one first: "
            "dpo-video train RECIPE"
        )
    refuse_pickled_weights(adapter, setting=f"the adapter {str(adapter)!r}")
    check_adapter(adapter)


def _with_adapter(
    model: PreTrainedModel, adapter: Path | None, reference: Path | None
) -> PreTrainedModel | PeftModel:
    if adapter is None:
        return model
    try:
        tuned = PeftModel.from_pretrained(model, adapter).eval()
        if reference is not None:
            add_reference(tuned, reference)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise UserError(
            f"the adapter {str(adapter)!r} does not fit the model: {reason}. Give the adapter of a "
            "run on this model, or make one: dpo-video train RECIPE"
        ) from error
    keep_adapter_fp32(tuned)
    return tuned


def choose_device(settings: ModelSettings | JudgeSettings, section: str = "model") -> torch.device:
    """Return where the model goes; under torchrun, this process's own GPU. Errors name the setting
    in its section.
    """
    found = torch.cuda.is_available()
    if settings.device == "cuda" and not found:
        raise UserError(
            f"{section}.device is 'cuda', and torch finds no CUDA device. Use auto or cpu, or "
            "check the driver"
        )
    if settings.device == "cpu" or not found:
        return torch.device("cpu")
    return torch.device("cuda", local_rank())


def choose_dtype(settings: ModelSettings | JudgeSettings, section: str = "model") -> torch.dtype:
    """Return the type of weights and compute; auto is bfloat16 on a GPU that has it, else
    float32.
    """
    if settings.dtype != "auto":
        return DTYPES[settings.dtype]
    if choose_device(settings, section).type == "cuda" and torch.cuda.is_bf16_supported(
        including_emulation=False
    ):
        return torch.bfloat16
    return torch.float32


def _weights_of_part(settings: ModelSettings, family: Family) -> dict[str, Any]:
    if family.config_part is None:
        return {}
    raw, _ = PretrainedConfig.get_config_dict(
        resolve_model(settings.name), revision=settings.revision
    )
    names = weight_names(raw, family)
    return {"key_mapping": names} if names else {}


def _attention(settings: ModelSettings) -> dict[str, Any]:
    return {} if settings.attention == "auto" else {"attn_implementation": settings.attention}


def _quantization(settings: ModelSettings, family: Family, dtype: torch.dtype) -> dict[str, Any]:
    if settings.quantize == "none":
        return {}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(family.keep_unquantized),
        )
    }
