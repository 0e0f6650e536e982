"""Write base + adapter as one full model, and check that what was written answers as they do.

T tokens, V vocabulary.
"""

import gc
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl
from dpo_video.core.records import Pair
from dpo_video.models.collate import collate
from dpo_video.models.decoding import reading_for
from dpo_video.models.dtypes import DTYPES
from dpo_video.models.hub import ModelSpec, load_config
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.names import resolve_model
from dpo_video.models.peft_library import PeftModel
from dpo_video.models.tokens import fit_frames
from dpo_video.recipe import ModelSettings
from dpo_video.run import Run
from dpo_video.train.logps import clip_rows
from dpo_video.train.selection import check_clips_inside
from dpo_video.video import Frames, VideoError, clip_request
from dpo_video.video.read import read_frames

TOLERANCE: dict[torch.dtype, float] = {
    torch.float32: 1e-4,
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
}
"""How far logits may be apart, as a share of the largest logit: a merged weight is rounded once, an
adapter never.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedExample:
    """A real prompt with its clip and answer, to compare the models on."""

    pair: Pair
    frames: Frames


def merge(run: Run, out: Path) -> dict[str, Any]:
    """Write the run's adapter merged into its base, with the processor, to `out`; return what was
    compared.

    The base is loaded without quantisation, also where the recipe tunes it in 4 bit: weights in 4
    bit cannot take up an adapter without losing most of it. The result then differs from 4-bit base
    + adapter by the quantisation error.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{str(out)!r} exists: give another --out, or remove it first")
    check_clips_inside(run, read_jsonl(run.folder / "pairs.jsonl", Pair))
    settings = _full_precision(run.recipe.model)
    policy = load_policy(settings, adapter=run.folder / "adapter")
    example = _example(run, policy.spec)
    expected = _logits(policy, run, example)
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        _write(policy, settings, new)
        del policy
        gc.collect()
        merged = load_policy(
            ModelSettings.model_validate(
                {
                    **settings.model_dump(),
                    "name": str(new.absolute()),
                    "revision": None,
                    "rope_factor": None,
                }
            )
        )  # the written configuration holds it
        difference = float(
            (_logits(merged, run, example) - expected).abs().max() / expected.abs().max()
        )
        allowed = TOLERANCE[merged.dtype]
        if not difference <= allowed:
            raise RuntimeError(
                f"the merged model's logits differ from base + adapter by {difference:.2g} of the "
                f"largest logit; at most {allowed:g} is rounding in {merged.dtype}. Nothing was "
                f"written"
            )
        if out.exists():
            out.rmdir()
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return {
        "written": str(out),
        "dtype": settings.dtype,
        "base_in_training": "4 bit" if run.recipe.model.quantize == "nf4" else "unquantised",
        "compared_on": example.pair.sample_id,
        "largest_logit_difference": f"{difference:.2g} of the largest logit",
        "allowed": allowed,
    }


def _full_precision(settings: ModelSettings) -> ModelSettings:
    """Return settings that load the base unquantised, in the type its checkpoint is stored in
    unless one is set.
    """
    config, _ = load_config(settings)
    stored = next(
        (
            name
            for name, dtype in DTYPES.items()
            if dtype in (config.dtype, config.get_text_config().dtype)
        ),
        None,
    )
    dtype = settings.dtype if settings.dtype != "auto" else stored or "float32"
    return settings.model_copy(update={"quantize": "none", "dtype": dtype})


def _example(run: Run, spec: ModelSpec) -> ComparedExample:
    """Return the first pair whose clip can be read."""
    first: VideoError | None = None
    for pair in read_jsonl(run.folder / "pairs.jsonl", Pair):
        try:
            request = clip_request(pair, run.video_root)
            video = request.video if isinstance(request.video, Path) else list(request.video)
            frames = read_frames(
                video,
                run.recipe.video,
                start=pair.start,
                end=pair.end,
                **reading_for(spec, run.recipe.video),
            )
            return ComparedExample(pair=pair, frames=frames)
        except VideoError as error:
            first = first or error
    raise UserError(
        f"no clip of {str(run.folder / 'pairs.jsonl')!r} can be read to compare the models on: "
        f"{first}"
    )


@torch.no_grad()
def _logits(policy: Policy, run: Run, example: ComparedExample) -> Tensor:
    """Return (T, V) float32 logits of the example's prompt and chosen answer."""
    frames = fit_frames(policy.spec, run.recipe.video, example.frames)
    rows = clip_rows(
        policy,
        frames,
        run.recipe.video,
        question=example.pair.prompt,
        history=example.pair.history,
        answers=[example.pair.chosen],
    )
    with torch.autocast(policy.device.type, policy.dtype, enabled=policy.dtype != torch.float32):
        logits: Tensor = policy.model(**collate(policy, rows, "right")).logits[0]
    return logits.float().cpu()


def _write(policy: Policy, settings: ModelSettings, folder: Path) -> None:
    assert isinstance(policy.model, PeftModel)
    model = policy.model.merge_and_unload(safe_merge=True)
    # a policy is loaded without its checkpoint's sampling settings; the merged model keeps them,
    # where there are any
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(
            resolve_model(settings.name), revision=settings.revision or "main"
        )
    model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
