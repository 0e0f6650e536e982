"""The checks of a family that load, read and write: prompts, features, tokens, layers, answers.

Each takes a subject and an empty folder, and raises CheckFailed. A check's name is what tables call
it, with spaces.
"""

import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dpo_video.core import strict_json
from dpo_video.family.blindness import shuffled_video_changes_logps
from dpo_video.family.subject import (
    CLIPS,
    TOLERANCE,
    Subject,
    noise_frames,
    processor_outputs,
    prompt_only,
    require,
    require_close,
    row_logits,
    with_adapter,
    with_sound,
)
from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.generation import generate_answers
from dpo_video.models.hearing import feature_rows, hearing_of, placeholders
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import adapter_parameters
from dpo_video.models.peft_library import PeftModel
from dpo_video.models.prompts import ClipInputs, answer_ids, encode_prompt, video_inputs
from dpo_video.models.sampling import Sampler
from dpo_video.models.tokens import video_tokens, vision_patches
from dpo_video.recipe import VideoSettings
from dpo_video.train.logps import answer_logps, clip_rows

SHAPES = [(6, 100, 150), (2, 240, 320), (3, 37, 300), (12, 180, 320)]
"""Frames, height and width of clips whose tokens are counted, and the tower's patches beside them:
of the small CLIPS the ends of rows, which are no patches, may be more.
"""
SOUNDS = (0.1, 0.5, 1.0, 1.0001, 1.99, 2.0, 2.01, 2.6418, 3.3, 7.77)
"""Seconds of sound that are counted; of some the samples are no whole number of 10 ms."""
SEE = {"placeholder": "placeholder", "hearing.placeholder": "hearing: placeholder and inputs"}
"""What to look at where features are not as many as their placeholders, by the field that names
these.
"""
NOTICED = 1e-4
"""Nats by which log-probs move at least, where a model hears: above the rounding of float32."""


def saves_and_reloads(subject: Subject, folder: Path) -> None:
    """A checkpoint that was written and read again has the same weights, prompt and logits."""
    policy = subject.plain
    policy.bare.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    again = load_policy(policy.settings.model_copy(update={"name": str(folder)}))
    ours, theirs = policy.bare.state_dict(), again.bare.state_dict()
    require(ours.keys() == theirs.keys(), "auto_model", "the reloaded model has other weights")
    changed = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    require(not changed, "auto_model", f"weights change when saved and reloaded: {changed[:3]}")
    row = subject.rows[0][0]
    prompt = encode_prompt(again, CLIPS[0].question, row.clip)
    require(
        torch.equal(prompt.input_ids, row.prompt.input_ids),
        "load_processor",
        "the reloaded processor writes another prompt",
    )
    require_close(
        row_logits(again, row),
        row_logits(policy, row),
        "auto_model",
        "logits of the reloaded model and its own",
        atol=1e-6,
    )


def prompt_is_the_processors_and_a_prefix(subject: Subject, folder: Path) -> None:
    """Prompt + answer as one text, through the processor with the frames, are our prompt's ids,
    then our answer's.
    """
    policy = subject.plain
    for clip, rows in zip(CLIPS, subject.rows, strict=True):
        end = policy.processor.tokenizer.decode([policy.end_id])
        for row, answer in zip(rows, clip.answers, strict=True):
            whole = processor_outputs(policy, clip, answer + end)["input_ids"][0].tolist()
            require(
                whole == [*row.prompt.input_ids.tolist(), *answer_ids(policy, answer)],
                "process",
                "the processor's ids of prompt and answer are not those of the prompt, then those "
                "of the answer (see prompt_token, tokenize, finish_prompt and end_of_turn too)",
            )
        alone = processor_outputs(policy, clip)
        require(
            alone["input_ids"][0].tolist() == rows[0].prompt.input_ids.tolist(),
            "process",
            "the processor's ids of a prompt are not ours",
        )
        types = rows[0].prompt.token_types
        require(
            types is None or torch.equal(alone["mm_token_type_ids"][0].cpu(), types),
            "process",
            "the processor's mm_token_type_ids are not ours",
        )


def tokens_are_counted_from_the_config(subject: Subject, folder: Path) -> None:
    """As many placeholders as features, and as many as `video_tokens` counts, for clips of many
    shapes.
    """
    policy, settings = subject.plain, VideoSettings()
    family, config = policy.family, policy.bare.config
    for rows in subject.rows:
        for part in feature_rows(family, config, rows[0].features):
            holes = part.holes(rows[0].prompt.input_ids)
            require(
                holes == part.made and len(rows[0].features) > 0,
                "features",
                f"makes {part.made} rows for {part.of} whose prompt has {holes} placeholders of "
                f"the id {part.token} (see {SEE[part.field]})",
            )
    shapes = [(clip.count, clip.height, clip.width) for clip in CLIPS] + SHAPES
    for count, height, width in shapes:
        shape = {"num_frames": count, "height": height, "width": width}
        inputs = video_inputs(policy, noise_frames(count, height=height, width=width), settings)
        holes = _holes(policy, inputs)
        counted = video_tokens(policy.spec, settings, **shape)
        require(
            counted == holes,
            "video_tokens",
            f"counts {counted} for {count} frames of {width}x{height}, and the prompt has {holes} "
            "placeholders (see frame_size too)",
        )
        patches = vision_patches(policy.spec, settings, **shape)
        require(
            patches >= counted or (count, height, width) not in SHAPES,
            "vision_patches",
            f"counts {patches}, fewer than the {counted} tokens that come out of the tower",
        )


def _holes(policy: Policy, clip: ClipInputs) -> int:
    """Return the placeholders of a prompt about a clip, of any kind."""
    tokens = torch.tensor(placeholders(policy.family, policy.bare.config))
    return int(torch.isin(encode_prompt(policy, "?", clip).input_ids, tokens).sum())


def sound_is_counted_and_noticed(subject: Subject, folder: Path) -> None:
    """Of a model that hears: as many placeholders of sound as `hearing` counts, for sounds of many
    lengths, and answers' log-probs move when the sound is another or missing.
    """
    policy, settings = subject.plain, VideoSettings()
    hearing = hearing_of(policy.family, policy.bare.config, settings)
    if hearing is None:
        return
    extractor = getattr(policy.processor, "feature_extractor", None)
    rate = hearing.form.rate if extractor is None else extractor.sampling_rate
    require(
        hearing.form.rate == rate,
        "hearing",
        f"has sound read at {hearing.form.rate} samples a second, and the processor takes {rate}",
    )
    clip = CLIPS[0]
    silent = replace(clip.frames(hearing.form), sound=None)
    of_frames = _holes(policy, video_inputs(policy, silent, settings))
    for seconds in SOUNDS:
        sounding = with_sound(silent, hearing.form, seconds=seconds)
        holes = _holes(policy, video_inputs(policy, sounding, settings)) - of_frames
        counted = hearing.tokens(sounding.sound_samples)
        require(
            counted == holes > 0,
            "hearing",
            f"counts {counted} tokens for {seconds:g} s of sound, and the prompt has {holes}",
        )
        most = counted if hearing.most_tokens is None else hearing.most_tokens
        require(counted <= most, "hearing", f"counts {counted} tokens, and most_tokens is {most}")
    heard, other, none = (
        torch.tensor(
            answer_logps(
                policy,
                clip_rows(policy, frames, settings, question=clip.question, answers=clip.answers),
            )
        )
        for frames in (
            with_sound(silent, hearing.form, seconds=2.0),
            with_sound(silent, hearing.form, seconds=2.0, seed=1),
            silent,
        )
    )
    require(
        float((heard - other).abs().max()) > NOTICED,
        "hearing",
        "another sound changes nothing: the model is deaf",
    )
    require(float((heard - none).abs().max()) > NOTICED, "hearing", "sound changes nothing")


@torch.no_grad()
def batched_equals_unbatched(subject: Subject, folder: Path) -> None:
    """Clips of different frame counts and shapes in one batch, padded on either side."""
    policy = subject.plain
    rows = [row for rows in subject.rows for row in rows]
    alone = [row_logits(policy, row) for row in rows]
    for side in ("left", "right"):
        together = policy.model(**collate(policy, rows, side)).logits
        for place, row in enumerate(rows):
            own = together[place]
            require_close(
                own[-len(row) :] if side == "left" else own[: len(row)],
                alone[place],
                "pack",
                f"logits of a row in a batch padded on the {side}, and alone",
                atol=2 * TOLERANCE,  # sums run in another order
            )


def features_equal_pixels(subject: Subject, folder: Path) -> None:
    """Logits with features of ours equal those of the model's own call with pixels."""
    policy = subject.plain
    for clip, rows in zip(CLIPS, subject.rows, strict=True):
        end = policy.processor.tokenizer.decode([policy.end_id])
        inputs = processor_outputs(policy, clip, clip.answers[0] + end)
        with torch.no_grad():
            stock = policy.family.stock_logits(policy.bare, inputs)[0]
        require(bool(stock.std() > 0.1), "stock_logits", "the model's own logits hardly vary")
        require_close(
            row_logits(policy, rows[0]),
            stock,
            "features",
            "logits with features made by the row, and of the model's own call with pixels",
            atol=TOLERANCE,
        )


def lora_is_on_all_language_layers(subject: Subject, folder: Path) -> None:
    """LoRA tunes all linear layers of the language model and no other, and nothing else trains."""
    policy = subject.tuned
    hit = {
        name.removeprefix("base_model.model.").partition(".lora_")[0]
        for name, _ in adapter_parameters(policy.model)
    }
    linears = subject.decoder_linears
    outside, missing = sorted(hit - linears), sorted(linears - hit)
    require(bool(hit & linears), "lora_targets", "matches no linear layer of the language model")
    require(not outside, "lora_targets", f"matches layers outside of it, such as {outside[:3]}")
    require(not missing, "lora_targets", f"leaves out layers of it, such as {missing[:3]}")
    trained = {name for name, weight in policy.model.named_parameters() if weight.requires_grad}
    require(
        trained == {name for name, _ in adapter_parameters(policy.model)},
        "lora_targets",
        "something but the adapter would be trained",
    )


def only_the_language_model_is_in_4_bit(subject: Subject, folder: Path) -> None:
    """nf4 puts the layers that LoRA tunes in 4 bit and no other, and the logits stay near."""
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]  # here: a second

    if subject.family.no_4_bit is not None:
        return
    policy = load_policy(subject.settings.model_copy(update={"quantize": "nf4"}))
    in_4bit = {
        name for name, module in policy.model.named_modules() if isinstance(module, Linear4bit)
    }
    wrong = sorted(in_4bit ^ subject.decoder_linears)
    require(not wrong, "keep_unquantized", f"4-bit layers and language layers differ: {wrong[:3]}")
    row = subject.rows[0][0]
    quantised, full = row_logits(policy, row), row_logits(subject.plain, row)
    require(torch.isfinite(quantised).all(), "keep_unquantized", "logits in 4 bit are not finite")
    moved = float((quantised - full).abs().max())
    require(
        0 < moved < float(full.abs().max()),
        "keep_unquantized",
        f"4 bit moves logits by {moved:.2g}, which must be above 0 and below the largest of them",
    )


def generates_as_teacher_forced(subject: Subject, folder: Path) -> None:
    """The log-probs that sampled answers were drawn from are those of a forward over prompt and
    answer.
    """
    policy = subject.plain
    rows = [prompt_only(rows[0]) for rows in subject.rows]
    logits: list[Tensor] = []
    written: list[Tensor] = []
    bare = policy.bare
    own = bare.generate

    def recorded(**kwargs: Tensor) -> Tensor:
        written.append(own(**kwargs)[:, kwargs["input_ids"].shape[1] :])
        return written[0]

    bare.generate = recorded
    hook = bare.get_output_embeddings().register_forward_hook(
        lambda *call: logits.append(call[2][:, -1])
    )
    try:
        generate_answers(
            policy,
            rows,
            seeds=[[1, 2, 3], [4]],
            sampler=Sampler(temperature=1.0, max_new_tokens=5),
            share_prefix=False,  # trees are held against this elsewhere
        )
    finally:
        hook.remove()
        del bare.generate
    steps = torch.stack(logits[-written[0].shape[1] :], dim=1).log_softmax(-1)  # (R, steps, V)
    for answer, drawn, row in zip(written[0], steps, [rows[0]] * 3 + [rows[1]], strict=True):
        ids = answer.tolist()
        ids = ids[: ids.index(policy.end_id)] if policy.end_id in ids else ids
        whole = TokenRow(prompt=row.prompt, clip=row.clip, features=row.features, answer=tuple(ids))
        forced = row_logits(policy, whole)[len(row) - 1 :].log_softmax(-1)[: len(drawn)]
        require_close(
            drawn[: len(forced)],
            forced,
            "positions",
            "log-probs while answers are written, and of one forward over them",
            atol=1e-4,
        )


def answers_together_are_those_alone(subject: Subject, folder: Path) -> None:
    """Answers that are written together, on trees where the language model allows it, are those of
    prompts of other lengths read one by one.
    """
    policy = subject.plain
    rows = [prompt_only(row) for rows in subject.rows for row in rows]
    seeds = [[number, number + 100] for number in range(len(rows))]
    sampler = Sampler(temperature=1.0, max_new_tokens=5)
    together = generate_answers(policy, rows, seeds=seeds, sampler=sampler)
    for row, row_seeds, answers in zip(rows, seeds, together, strict=True):
        (alone,) = generate_answers(
            policy, [row], seeds=[row_seeds], sampler=sampler, share_prefix=False
        )
        require(
            answers == alone,
            "shared_prefix",
            f"written together: {answers[0].text!r}, alone: {alone[0].text!r}",
        )


def shuffled_frames_are_noticed(subject: Subject, folder: Path) -> None:
    """Answers' log-probs move when frames change order, and when they turn grey."""
    clip = CLIPS[0]
    seen = shuffled_video_changes_logps(
        subject.plain, clip.frames(), VideoSettings(), question=clip.question, answers=clip.answers
    )
    require(seen.blanked > 1e-3, "features", "grey frames change nothing: the model is blind")
    require(seen.shuffled > 1e-3, "features", "frames in another order change nothing")


def adapter_reloads_and_merges(subject: Subject, folder: Path) -> None:
    """A saved adapter, and the model merged with it, give the tuned model's logits."""
    policy = with_adapter(load_policy(subject.settings))
    row = subject.rows[0][0]
    tuned, base = row_logits(policy, row), row_logits(subject.plain, row)
    moved = float((tuned - base).abs().max())
    require(moved > 0.1, "lora_targets", f"an adapter moves logits by {moved:.1e} only")
    policy.model.save_pretrained(str(folder / "adapter"))
    again = load_policy(subject.settings, adapter=folder / "adapter")
    reason = "logits of the tuned model reloaded, and its own"
    require_close(row_logits(again, row), tuned, "lora_targets", reason, atol=TOLERANCE)
    assert isinstance(again.model, PeftModel)
    again.model.merge_and_unload(safe_merge=True).save_pretrained(folder / "merged")
    policy.processor.save_pretrained(folder / "merged")
    whole = load_policy(policy.settings.model_copy(update={"name": str(folder / "merged")}))
    reason = "logits of the merged model, and of the tuned one"
    require_close(row_logits(whole, row), tuned, "lora_targets", reason, atol=1e-3)


def adapter_has_the_names_of_peft(subject: Subject, folder: Path) -> None:
    """PEFT writes base_model.model.<module>.lora_A.weight, as whatever serves it reads."""
    subject.tuned.model.save_pretrained(str(folder))
    saved = set(load_file(folder / "adapter_model.safetensors"))
    expected = {
        f"base_model.model.{name}.lora_{side}.weight"
        for name in subject.decoder_linears
        for side in "AB"
    }
    wrong = sorted(saved ^ expected)
    require(not wrong, "lora_targets", f"the adapter's names are not the model's: {wrong[:3]}")
    config = strict_json.loads_foreign((folder / "adapter_config.json").read_text(encoding="utf-8"))
    require(bool(config["target_modules"]), "lora_targets", "the adapter names no layers")


def layers_are_not_the_towers(subject: Subject, folder: Path) -> None:
    """`lora_targets` matches no module of tower or projector by its name, a linear layer or not."""
    bare = subject.plain.bare
    inside = {id(module) for module in bare.get_decoder().modules()}
    wrong = [
        name
        for name, module in bare.named_modules()
        if re.fullmatch(subject.family.lora_targets, name) and id(module) not in inside
    ]
    require(not wrong, "lora_targets", f"matches modules outside the language model: {wrong[:3]}")
