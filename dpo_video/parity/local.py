"""What base and tuned model answer here: the answers that evaluation stored, or new ones; and how
likely they find what a server answered.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from dpo_video.core.errors import UserError
from dpo_video.core.progress import progress
from dpo_video.core.records import Sample
from dpo_video.core.turns import chat_messages
from dpo_video.generate.jobs import GenerationJob
from dpo_video.generate.message_parts import frame_images
from dpo_video.generate.stage import make_candidates
from dpo_video.models.decoding import model_pool
from dpo_video.models.load import Policy
from dpo_video.models.peft_library import PeftModel
from dpo_video.models.prompts import answer_ids
from dpo_video.models.sampling import Sampler
from dpo_video.models.tokens import fit_frames
from dpo_video.parity.server import ServedAnswer, readable_requests
from dpo_video.run import Run
from dpo_video.train.logps import clip_rows, token_logps
from dpo_video.video import Frames, VideoError, clip_key


class LocalAnswers(NamedTuple):
    """Greedy answers by sample id."""

    tuned: Mapping[str, str]
    base: Mapping[str, str]


def adapter_folder(run: Run) -> Path:
    """Return the run's adapter; UserError where there is none yet."""
    folder = run.folder / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise UserError(
            f"no adapter in {str(folder)!r}: train first, so that there is something to serve"
        )
    return folder


def local_answers(run: Run, samples: Sequence[Sample]) -> LocalAnswers:
    """Return what the models answer here to questions about clips, as evaluation asks them."""
    job = GenerationJob(
        samples=samples,
        root=run.heldout_root,
        num_candidates=1,
        sampler=Sampler(temperature=0, max_new_tokens=run.recipe.evaluate.max_new_tokens),
    )
    base = make_candidates(run, replace(job, title="answers of the base")).candidates
    tuned = make_candidates(
        run, replace(job, title="answers of the tuned model", adapter=adapter_folder(run))
    ).candidates
    return LocalAnswers(
        tuned={candidate.sample_id: candidate.text for candidate in tuned},
        base={candidate.sample_id: candidate.text for candidate in base},
    )


def image_answers(run: Run, policy: Policy, samples: Sequence[Sample]) -> LocalAnswers:
    """Return what the models answer where they get a clip's frames as pictures and not as a video,
    as from a server that takes no video: other tokens, so other answers.
    """
    check_takes_images(policy)
    tuned: dict[str, str] = {}
    base: dict[str, str] = {}
    with progress("answers to images", total=len(samples)) as advance:
        for sample, frames in _clips(run, policy, samples):
            tuned[sample.id] = _answer_to_images(run, policy, frames, sample)
            with _base(policy):
                base[sample.id] = _answer_to_images(run, policy, frames, sample)
            advance()
    return LocalAnswers(tuned=tuned, base=base)


def logp_gaps(
    run: Run, policy: Policy, samples: Sequence[Sample], served: Mapping[str, ServedAnswer]
) -> dict[str, tuple[float, float]]:
    """Return how far the log-probs of each served answer's tokens are from those here, in nats a
    token: under the tuned model, and under the base.

    Answers that are other tokens here than on the server have none.
    """
    gaps: dict[str, tuple[float, float]] = {}
    scored = [sample for sample in samples if _has_logps(served, sample)]
    with progress("log-probs of the answers", total=len(scored)) as advance:
        for sample, frames in _clips(run, policy, scored):
            advance()
            answer = served[sample.id]
            try:
                (row,) = clip_rows(
                    policy,
                    frames,
                    run.recipe.video,
                    question=sample.prompt,
                    history=sample.history,
                    answers=[answer.text],
                )
            except UserError:  # control tokens in the answer: no text of this model's
                continue
            if answer.finish == "length":
                row = replace(row, answer=tuple(answer_ids(policy, answer.text, ended=False)))
            (tuned,), (base,) = (token_logps(policy, [row], adapter=on) for on in (True, False))
            gap, base_gap = _gap(answer, tuned), _gap(answer, base)
            if gap is not None and base_gap is not None:
                gaps[sample.id] = gap, base_gap
    return gaps


def _has_logps(served: Mapping[str, ServedAnswer], sample: Sample) -> bool:
    answer = served.get(sample.id)
    return answer is not None and answer.logps is not None and bool(answer.text.strip())


def _gap(answer: ServedAnswer, logps: Sequence[float]) -> float | None:
    """Return the mean distance of an answer's log-probs; servers may leave out the end of turn."""
    served = answer.logps or ()
    missing = len(logps) - len(served)
    if missing not in ((0,) if answer.finish == "length" else (0, 1)):
        return None
    return fmean(abs(there - here) for there, here in zip(served, logps, strict=False))


def _clips(run: Run, policy: Policy, samples: Sequence[Sample]) -> Iterator[tuple[Sample, Frames]]:
    """Yield each question with its clip's frames; a clip that cannot be read has none."""
    by_clip: dict[str, list[Sample]] = {}
    for sample in samples:
        by_clip.setdefault(clip_key(sample), []).append(sample)
    pool = model_pool(policy.spec, run.recipe.video)
    with pool:
        for request, frames in pool.map(readable_requests(run, by_clip)):
            if isinstance(frames, VideoError):
                continue
            fitting = fit_frames(policy.spec, run.recipe.video, frames)
            for sample in by_clip[request.key]:
                yield sample, fitting


def _base(policy: Policy) -> AbstractContextManager[None]:
    model = policy.model
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()


def check_takes_images(policy: Policy) -> None:
    """Raise UserError where a model's processor here reads clips alone."""
    if getattr(policy.processor, "image_processor", None) is None:
        raise UserError(
            f"the server took frames as pictures, and {policy.family.name!r} reads clips alone "
            "here, so that there are no answers to compare with. Ask a server that takes videos, "
            "with --shown-as film"
        )


@torch.no_grad()
def _answer_to_images(run: Run, policy: Policy, frames: Frames, sample: Sample) -> str:
    images = frame_images(policy.spec, run.recipe.video, frames)
    content = [{"type": "image", "image": image} for image in images]
    inputs = policy.processor.apply_chat_template(
        chat_messages(sample.history, sample.prompt, content),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(policy.device)
    with torch.autocast(policy.device.type, policy.dtype, enabled=policy.dtype != torch.float32):
        ids = policy.model.generate(  # type: ignore[operator]
            **inputs,
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=run.recipe.evaluate.max_new_tokens,
            eos_token_id=policy.end_ids,
            pad_token_id=policy.pad_id,
        )
    new = ids[0, inputs["input_ids"].shape[1] :]
    return str(policy.processor.tokenizer.decode(new, skip_special_tokens=True))
