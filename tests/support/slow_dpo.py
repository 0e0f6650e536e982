"""DPO in the plainest way: a forward through pixels for each answer, policy and reference apart."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import get_scheduler, set_seed

from dpo_video.core.records import Pair
from dpo_video.models.decoding import sound_format
from dpo_video.models.hub import model_spec
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import lora_config
from dpo_video.models.prompts import clip_content, process_frames, prompt_text
from dpo_video.recipe import Recipe
from dpo_video.train.sampler import ClipSampler
from dpo_video.video.read import read_frames


def slow_dpo(
    world: Path, recipe: Recipe, pairs: Sequence[Pair], *, policy: Policy | None = None
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Run DPO in the plainest way: a forward through pixels for each answer, policy and reference
    apart.

    Args:
        policy: another implementation of the recipe's model, with its own call in `stock_logits`.
    """
    policy = policy or load_policy(recipe.model)
    set_seed(recipe.seed)  # as DPOTrainer.__init__ does before it makes the adapter
    model = get_peft_model(policy.model, lora_config(recipe.train.lora, policy.family))
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    order = ClipSampler(
        [pair.video for pair in pairs], batch_size=recipe.train.batch_size, seed=recipe.seed
    )
    accumulate = recipe.train.gradient_accumulation
    steps = math.ceil(len(order) / accumulate) * int(recipe.train.epochs)
    optimizer = torch.optim.AdamW(weights, lr=recipe.train.learning_rate, weight_decay=0.0)
    schedule = get_scheduler(
        "linear", optimizer, num_warmup_steps=math.ceil(0.1 * steps), num_training_steps=steps
    )
    log = []
    for epoch in range(int(recipe.train.epochs)):
        order.set_epoch(epoch)
        batches = list(order)
        for begin in range(0, len(batches), accumulate):
            micro = batches[begin : begin + accumulate]
            losses, margins = [], []
            for batch in micro:
                margin = torch.stack(
                    [
                        recipe.train.beta
                        * (
                            ratio(policy, model, world, recipe, pairs[place], pairs[place].chosen)
                            - ratio(
                                policy, model, world, recipe, pairs[place], pairs[place].rejected
                            )
                        )
                        for place in batch
                    ]
                )
                loss = -nn.functional.logsigmoid(margin).mean()
                (loss / len(micro)).backward()
                losses.append(loss.item())
                margins.append(margin.mean().item())
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            log.append(
                {"loss": sum(losses) / len(losses), "rewards/margins": sum(margins) / len(margins)}
            )
    return log, get_peft_model_state_dict(model)


def ratio(
    policy: Policy, model: nn.Module, world: Path, recipe: Recipe, pair: Pair, answer: str
) -> torch.Tensor:
    """Return log p(answer) - log p_ref(answer), nats."""
    inputs, answered = pixel_inputs(policy, world, recipe, pair, answer)
    with torch.no_grad(), model.disable_adapter():
        reference = answer_logp(policy, inputs, answered)
    return answer_logp(policy, inputs, answered) - reference


def pixel_inputs(
    policy: Policy, world: Path, recipe: Recipe, pair: Pair, answer: str
) -> tuple[dict[str, Any], int]:
    """Return the processor's own inputs for prompt + answer, and the number of tokens of the
    answer.
    """
    frames = read_frames(
        world / pair.video,
        recipe.video,
        multiple_of=policy.family.frames_per_step,
        sound=sound_format(model_spec(recipe.model), recipe.video),
    )
    processor = policy.processor
    content = clip_content(policy.family, len(frames.pixels))
    text = prompt_text(processor, pair.prompt, content)
    answer += processor.tokenizer.convert_ids_to_tokens(policy.end_id)
    answer_ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    joined = text if policy.family.open_prompt else text + answer
    made = process_frames(policy.family, processor, joined, frames, {})
    out = {
        name: torch.as_tensor(value)
        for name, value in made.items()
        if name != "text_replacement_offsets"
    }
    if policy.family.open_prompt:
        out["input_ids"] = torch.cat([out["input_ids"], torch.tensor([answer_ids])], dim=1)
    return out, len(answer_ids)


def answer_logp(policy: Policy, inputs: Mapping[str, Any], answered: int) -> torch.Tensor:
    """Return log p(answer) by the model's own call with pixels, nats."""
    logits = policy.family.stock_logits(policy.bare, inputs)[0, -answered - 1 : -1]
    return logits.log_softmax(-1).gather(1, inputs["input_ids"][0, -answered:, None]).sum()
