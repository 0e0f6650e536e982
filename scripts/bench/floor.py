"""The floor: every token of the tree once forward and backward, in one plain causal pass without
anything else.

The same model, adapter and features as the engine's step, and as many tokens in the same order, as
one row of text: no tree, no TRL, no loss but the sum of the answers' log-probs. Its attention is a
little more than the tree's, since an answer also attends to the answers before it. The tower runs
once, without gradients, in both.
"""

from collections.abc import Callable

import torch
from peft import get_peft_model
from trl.trainer.utils import add_fused_lm_head

from bench.case import Case, make_clip, make_pairs, make_policy
from dpo_video.models.features import encode_video, pack_features
from dpo_video.models.lora import lora_config
from dpo_video.models.prompts import encode_prompt
from dpo_video.recipe import LoraSettings


def floor_parts(case: Case) -> dict[str, Callable[[], object]]:
    """Return what to time: `tower`, and `pass`, the language model on all tokens once forward and
    backward.
    """
    policy = make_policy(case)
    clip, pairs = make_clip(policy, case), make_pairs(case)
    stem = encode_prompt(policy, pairs[0].pair.prompt, clip)
    rest: list[int] = []
    for number, pair in enumerate(pairs):
        if number and pair.pair.prompt != pairs[number - 1].pair.prompt:
            rest += policy.processor.tokenizer(pair.pair.prompt)["input_ids"]
        rest += [*pair.chosen, *pair.rejected]
    ids = torch.cat([stem.input_ids, torch.tensor(rest)])[None].to(policy.device)
    later = stem.positions[:, -1:] + 1 + torch.arange(len(rest))
    positions = torch.cat([stem.positions, later], dim=1)[:, None].to(policy.device)
    add_fused_lm_head(policy.bare, outputs=("log_probs",))
    bare = policy.bare
    model = get_peft_model(
        policy.model, lora_config(LoraSettings(rank=16, alpha=32), policy.family)
    ).train()
    if case.size == "7b":
        bare.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        bare.enable_input_require_grads()
    features = encode_video(policy, clip)
    scored = slice(len(stem.input_ids) - 1, ids.shape[1] - 1)

    def run() -> None:
        model.zero_grad()
        with torch.autocast(case.device, torch.bfloat16, enabled=case.device == "cuda"):
            output = bare.base_model(
                input_ids=ids,
                position_ids=positions,
                use_cache=False,
                mm_encoder_outputs=pack_features(policy.family, [features]),
            )
            logits = bare.get_output_embeddings()(output.last_hidden_state[0, scored]).float()
        logits.log_softmax(-1).gather(1, ids[0, 1:][scored][:, None]).sum().backward()

    return {"tower": lambda: encode_video(policy, clip), "pass": run}
