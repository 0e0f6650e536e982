"""The checks of a family that train: shared prefixes, sharding, three steps of DPO on clips."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from dpo_video.core.library_warnings import quiet_libraries
from dpo_video.core.records import Pair
from dpo_video.family.subject import (
    Subject,
    noise_frames,
    require,
    require_close,
    rows_of,
)
from dpo_video.models.clip_source import open_source
from dpo_video.models.collate import TokenRow, collate, encode_rows
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import LANGUAGE_ONLY, adapter_parameters, lora_config, lora_targets
from dpo_video.models.shared_prefix.packed_rows import why_not_shared
from dpo_video.recipe import (
    DataSettings,
    JudgeSettings,
    LoraSettings,
    Recipe,
    TrainSettings,
    VideoSettings,
)
from dpo_video.toy.clips import SIDE, SOUND_RATE, encode
from dpo_video.train.dpo_config import dpo_config
from dpo_video.train.forward import Engine, rows_engine
from dpo_video.train.fsdp import shard_language_only
from dpo_video.train.pair_batches import completion_mask, loss_inputs, read_batch, tokenize_pair
from dpo_video.train.prefetch import ClipPrefetcher
from dpo_video.train.sampler import ClipSampler
from dpo_video.train.shared_prefix import choose_engine, shared_prefix_engine
from dpo_video.train.trainer import TrainingData, VideoDPOTrainer
from dpo_video.video import clip_request

STEPS = 3
LONG = (
    "the man is cooking pasta in a kitchen and talks to the camera about a red square moving right "
    * 3
)
PAIRS = [
    Pair(
        sample_id=f"s{number}",
        video=f"c{number % 2}.mp4",
        chosen=chosen,
        rejected=rejected,
        chosen_score=1.0,
        prompt="what happens ?",
        rejected_score=0.0,
        source="test",
        chosen_id=f"s{number}#0",
        rejected_id=f"s{number}#1",
    )
    for number, (chosen, rejected) in enumerate(
        [
            ("a red square", "no"),
            ("yes", "the man is cooking"),
            ("the man", "a red"),
            ("no", "yes yes"),
            ("left right", "up"),
            ("blue green", "circle"),
        ]
    )
]


def several_rows(subject: Subject) -> list[TokenRow]:
    """Return rows of two clips with several questions and answers of different lengths."""
    return rows_of(
        subject.tuned,
        (
            {"count": 4, "height": 56, "width": 112},
            {"what happens ?": ["yes", LONG, "no"], "who ?": ["the man"]},
        ),
        ({"count": 2, "height": 112, "width": 56}, {"what ?": ["yes", "a red square"]}),
    )


def run_engine(
    policy: Policy,
    engine: Engine,
    rows: Sequence[TokenRow],
    *,
    encode: bool = False,
    **more: Any,
) -> FusedCausalLMOutput:
    """Return an engine's results for rows, called as `install_engine` does for TRL; `encode`: from
    their pixels.
    """
    batch = loss_inputs(policy, rows)
    if encode or policy.family.encode == "in_forward":
        batch["rows"] = encode_rows(policy, rows)
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
    return engine(
        policy.bare.forward, family=policy.family, labels=labels, use_cache=False, **batch, **more
    )


def plain_logps(policy: Policy, row: TokenRow) -> Tensor:
    """Return (answer tokens,) log-probs of a row, run alone in a plain forward with logits,
    nats.
    """
    batch = collate(policy, [row], "right")
    logits = policy.bare(**batch, use_cache=False).logits[0, :-1].float()
    scored = completion_mask([row], batch)[0, 1:].bool()
    answer = batch["input_ids"][0, 1:][scored]  # of a clip's placeholders there may be no logit
    return logits[scored].log_softmax(-1).gather(1, answer[:, None])[:, 0]


def answer_part(rows: Sequence[TokenRow], values: Tensor) -> list[Tensor]:
    """Return of per-token values (R, T - 1) each row's answer's."""
    return [
        values[number, len(row.prompt.input_ids) - 1 : len(row) - 1]
        for number, row in enumerate(rows)
    ]


def adapter_grads(policy: Policy, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the adapter by name, and clear them."""
    policy.model.zero_grad()
    loss.backward()
    grads = {
        name: parameter.grad.clone()
        for name, parameter in adapter_parameters(policy.model)
        if parameter.grad is not None
    }
    policy.model.zero_grad()
    return grads


def shared_prefix_equals_rows(subject: Subject, folder: Path) -> None:
    """Log-probs and gradients of the engine that training takes are those of separate plain
    forwards.
    """
    policy = subject.tuned
    reason = why_not_shared(policy)
    require(
        (reason is None) == policy.family.shared_prefix,
        "shared_prefix",
        f"is {policy.family.shared_prefix}, and sharing is {'on' if reason is None else reason}",
    )
    rows = several_rows(subject)
    ours = answer_part(rows, _log_probs(run_engine(policy, choose_engine(policy), rows)))
    plain = [plain_logps(policy, row) for row in rows]
    reason = "log-probs of the engine that training takes, and of plain forwards"
    require_close(torch.cat(ours), torch.cat(plain), "shared_prefix", reason, atol=5e-5)
    weights = [torch.linspace(-1, 2, len(row.answer)).to(policy.device) for row in rows]
    mine, theirs = (
        adapter_grads(
            policy,
            torch.stack(
                [(weight * value).sum() for weight, value in zip(weights, values, strict=True)]
            ).mean(),
        )
        for values in (ours, plain)
    )
    largest = max(float(grad.abs().max()) for grad in theirs.values())
    require(largest > 0.1, "lora_targets", f"the adapter's gradients are {largest:.1e} at most")
    for name, grad in theirs.items():
        limit = 2e-4 + 1e-3 * float(grad.abs().max())
        moved = float((mine[name] - grad).abs().max())
        require(
            moved <= limit, "shared_prefix", f"the gradient of {name} differs by {moved:.1e} there"
        )


def a_family_that_declares_sharing_off_needs_to(subject: Subject, folder: Path) -> None:
    """Packed all the same, answers would read what they must not, or the model would refuse."""
    policy = subject.tuned
    if policy.family.shared_prefix or policy.family.encode == "in_forward":
        return
    rows = several_rows(subject)
    with torch.no_grad():
        apart = answer_part(rows, _log_probs(run_engine(policy, rows_engine, rows)))
        try:
            packed = answer_part(rows, _log_probs(run_engine(policy, shared_prefix_engine, rows)))
        except (RuntimeError, AssertionError, ValueError, IndexError, TypeError):
            return
    moved = float((torch.cat(packed) - torch.cat(apart)).abs().max())
    require(
        moved > 1e-3,
        "shared_prefix",
        f"is off, and shared prefixes differ from rows by {moved:.1e} only: leave it on",
    )


def fsdp_shards_the_language_model_and_its_layers_only(subject: Subject, folder: Path) -> None:
    """What is frozen beside it stays whole; the adapter is sharded wherever it sits."""
    bare = subject.tuned.bare
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    shard_language_only(plugin, bare)
    whole = {id(weight) for weight in plugin.ignored_modules[0]}
    decoder, head = bare.get_decoder(), bare.get_output_embeddings()
    language = {id(weight) for part in (decoder, head) for weight in part.parameters()}
    for name, weight in bare.named_parameters():
        sharded = id(weight) in language or ".lora_" in name
        require(
            (id(weight) in whole) != sharded,
            "language",
            f"FSDP would {'not shard' if sharded else 'shard'} {name}",
        )
    wrapped = [
        module
        for module in bare.modules()
        if type(module).__name__ in plugin.transformer_cls_names_to_wrap
    ]
    inside = {id(module) for module in decoder.modules()}
    require(
        bool(wrapped) and all(id(module) in inside for module in wrapped),
        "language",
        "FSDP cannot tell the language model's layers apart",
    )


def write_clips(folder: Path) -> None:
    """Write two short clips of smooth noise, of 6 and 8 frames; the second has sound."""
    for number, count in enumerate((6, 8)):
        coarse = noise_frames(count, height=8, width=8).pixels
        grow = np.ones((1, SIDE // 8, SIDE // 8, 1), np.uint8)
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, SOUND_RATE).astype(np.float32)
        sound = noise if number else None
        (folder / f"c{number}.mp4").write_bytes(encode(np.kron(coarse, grow), sound))


def three_dpo_steps_change_the_adapter_and_nothing_else(subject: Subject, folder: Path) -> None:
    """TRL trains the adapter on clips through the engine that the family gets."""
    write_clips(folder)
    recipe = _recipe(subject, folder)
    policy = load_policy(recipe.model)
    frozen = {name: parameter.clone() for name, parameter in policy.bare.named_parameters()}
    trainer, before = train_steps(policy, recipe, folder)
    require(
        trainer.state.global_step == STEPS,
        "features",
        f"training took {trainer.state.global_step} steps in place of {STEPS}",
    )
    after = dict(adapter_parameters(policy.bare))
    still = [name for name in before if torch.equal(before[name], after[name])]
    require(not still, "lora_targets", f"training left {still[:3]} as they were")
    kept = {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in policy.bare.named_parameters()
        if ".lora_" not in name
    }
    changed = [name for name in frozen if not torch.equal(frozen[name], kept[name])]
    require(
        kept.keys() == frozen.keys() and not changed,
        "lora_targets",
        f"training changed frozen weights: {changed[:3]}",
    )


def train_steps(
    policy: Policy, recipe: Recipe, folder: Path
) -> tuple[VideoDPOTrainer, dict[str, Tensor]]:
    """Return the trainer after STEPS steps on the clips in a folder, and the adapter's weights
    before them.
    """
    tokens = [pair for pair in (tokenize_pair(policy, pair) for pair in PAIRS) if pair is not None]
    order = ClipSampler([pair.clip for pair in tokens], batch_size=1, seed=0)
    with quiet_libraries(), open_source(policy, recipe) as source:
        reader = ClipPrefetcher(
            source,
            {pair.clip: clip_request(pair.pair, folder) for pair in tokens},
            order.clips_ahead,
            on_bad_clip=_fail,
        )
        on_cpu = policy.device.type == "cpu"
        args = dpo_config(recipe, output_dir=folder / "out", precision="no", use_cpu=on_cpu)
        args.save_strategy = "no"
        targets = lora_targets(policy.bare, policy.family, LANGUAGE_ONLY)
        trainer = VideoDPOTrainer(
            policy,
            args=args,
            peft_config=lora_config(recipe.train.lora, policy.family, targets=targets),
            data=TrainingData(
                order=order,
                engine=choose_engine(policy),
                read=lambda places: read_batch(
                    policy, reader, [tokens[place] for place in places], max_length=4096
                ),
            ),
        )
        before = {name: weight.clone() for name, weight in adapter_parameters(policy.bare)}
        trainer.train()
    return trainer, before


def _fail(clip: str, error: Exception) -> None:
    raise error


def _recipe(subject: Subject, folder: Path) -> Recipe:
    return Recipe(
        name="family-test",
        runs_folder=str(folder / "runs"),
        data=DataSettings(samples="none.jsonl"),
        seed=3,
        model=subject.settings,
        judge=JudgeSettings(model="none"),
        train=TrainSettings(
            batch_size=1,
            gradient_accumulation=2,
            epochs=1,
            learning_rate=1e-3,
            lora=LoraSettings(rank=8, alpha=8),
            logging_steps=1,
        ),
        video=VideoSettings(num_frames=4, workers=1),
    )


def _log_probs(output: FusedCausalLMOutput) -> Tensor:
    assert output.log_probs is not None, "the fused head gives log-probs always"
    return output.log_probs
