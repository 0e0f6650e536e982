"""A jury: several judges score every candidate, their scores are standardised and averaged, their
dispersion is kept.

Several small judges of different families together agreed with people more than one large one, at a
seventh of its cost (PoLL, arXiv 2404.18796). Judges use a scale differently, so each one's scores
are standardised over the candidates that all of them scored; the mean is put back on the scorer's
scale by the jury's average mean and spread.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.records import Judgment
from dpo_video.judge.types import Judged
from dpo_video.judge.verdict import num_contradicted
from dpo_video.recipe import JudgeSettings

ALIASES = {
    "gpt": ("gpt", "chatgpt", "o1", "o3", "o4", "openai"),
    "qwen": ("qwen", "qwq", "qvq"),
    "llama": ("llama", "codellama", "vicuna", "alpaca"),
    "gemma": ("gemma", "gemini", "paligemma"),
    "mistral": ("mistral", "mixtral", "ministral", "pixtral", "magistral"),
    "internlm": ("internlm", "internvl"),
    "deepseek": ("deepseek",),
    "claude": ("claude",),
    "phi": ("phi",),
    "glm": ("glm", "chatglm", "cogvlm"),
    "yi": ("yi",),
    "smollm": ("smollm", "smolvlm"),
}
"""Model families by how a name's words begin."""


class _Scale(NamedTuple):
    mean: float
    spread: float


def jurors(settings: JudgeSettings) -> list[JudgeSettings]:
    """Return the settings of each judge of the jury: those of the section with its own
    overrides.
    """
    return [settings.overridden(row) for row in settings.jury or ()]


def judge_by_jury(settings: JudgeSettings, judge_all: Callable[[JudgeSettings], Judged]) -> Judged:
    """Return the jury's judgment of every candidate; `judge_all` judges them by the settings of one
    judge.

    A candidate needs a score from more than half of the judges; one that a judge failed on is
    failed, and tried again. `details` holds each judge's score and `dispersion`, the standard
    deviation of the standardised scores.
    """
    votes, counts = [], Counter[str]()
    for juror in jurors(settings):
        judgments, juror_counts = judge_all(juror)
        votes.append(judgments)
        counts.update(juror_counts)
    names = _numbered(
        [next(iter(judgments.values())).judge if judgments else "" for judgments in votes]
    )
    scales = _scales(votes)
    verdicts = {}
    for candidate_id in votes[0]:
        by_judge = zip(names, (judgments[candidate_id] for judgments in votes), strict=True)
        verdicts[candidate_id] = _verdict(dict(by_judge), scales)
    return Judged(verdicts, counts)


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the judges' names, numbered where two are the same (one model under two settings)."""
    return [
        f"{name} ({names[:index].count(name) + 1})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _scales(votes: Sequence[Mapping[str, Judgment]]) -> list[_Scale]:
    """Return each judge's mean and spread over the candidates that all judges scored."""
    scored = set(votes[0])
    for judgments in votes:
        scored &= {name for name, judgment in judgments.items() if judgment.score is not None}
    scales = []
    for judgments in votes:
        scores = [
            judgment.score
            for name, judgment in judgments.items()
            if name in scored and judgment.score is not None
        ]
        scales.append(
            _Scale(fmean(scores), pstdev(scores)) if scores else _Scale(math.nan, math.nan)
        )
    return scales


def _verdict(votes: Mapping[str, Judgment], scales: Sequence[_Scale]) -> Judgment:
    """Return the jury's judgment from each judge's, by name."""
    scores = {name: judgment.score for name, judgment in votes.items()}
    jury = replace(
        next(iter(votes.values())),
        judge=" + ".join(votes),
        score=None,
        status="unscored",
        reply="",
        distribution=None,
        claims=None,
        details={"judges": scores},
    )
    contradicted = sum(num_contradicted(judgment) for judgment in votes.values())
    failed = next((name for name, judgment in votes.items() if judgment.status == "failed"), None)
    if failed is not None:
        return replace(jury, status="failed", reason=f"{votes[failed].reason} ({failed})")
    num_scores = sum(score is not None for score in scores.values())
    if 2 * num_scores <= len(votes):
        silent = next(name for name, score in scores.items() if score is None)
        return replace(
            jury,
            reason=f"{votes[silent].reason} (no majority of the jury: {num_scores} of "
            f"{len(votes)} judges gave a score; {silent} did not)",
        )
    if any(math.isnan(scale.mean) for scale in scales):
        return replace(
            jury, reason="no common scale: no candidate got a score from every judge of the jury"
        )
    standard = [
        (score - scale.mean) / scale.spread if scale.spread else 0.0
        for score, scale in zip(scores.values(), scales, strict=True)
        if score is not None
    ]
    spreads = [scale.spread for scale in scales if scale.spread]
    centre, spread = fmean(scale.mean for scale in scales), fmean(spreads) if spreads else 0.0
    dispersion = pstdev(standard)
    shown = ", ".join(
        f"{name} {'none' if score is None else format(score, '.2f')}"
        for name, score in scores.items()
    )
    return replace(
        jury,
        score=centre + spread * fmean(standard),
        status="scored",
        reason=f"{shown}; dispersion {dispersion:.2f}",
        details={"judges": scores, "dispersion": dispersion}
        | ({"contradicted": contradicted} if contradicted else {}),
    )


def vendor_of(model: str) -> str:
    """Return the family of a model: `model_type` of a local folder's text model, else the family
    its name begins with.

    Names are read word by word from the last part of a path or hub id ("Qwen/Qwen2.5-7B-Instruct"
    is qwen), and the first word of ALIASES decides ("llava-next-qwen-7b" is qwen); without one the
    first word stands for itself.
    """
    config = Path(model).expanduser() / "config.json"
    if config.is_file():
        try:
            facts: dict[str, Any] = strict_json.loads_foreign(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{config}: this model's configuration cannot be read: {error}"
            ) from error
        model = str(
            facts.get("text_config", {}).get("model_type") or facts.get("model_type") or model
        )
    words = re.findall(r"[a-z]+\d*", model.rstrip("/").rpartition("/")[2].casefold())
    for word in words:
        for family, names in ALIASES.items():
            if re.fullmatch(rf"(?:{'|'.join(names)})\d*", word):
                return family
    return words[0].rstrip("0123456789") if words else model


def family_warnings(settings: JudgeSettings, policy: str) -> list[str]:
    """Return a line for every judge that is of the policy's family: it may prefer its own kind of
    answer.

    Judges favour what related models write (preference leakage, arXiv 2502.01534).
    """
    judges = jurors(settings) or [settings]
    if settings.cascade is not None:
        judges = [settings.first_judge(), *judges]
    family = vendor_of(policy)
    return [
        f"judge {juror.model!r} and the policy {policy!r} are both of the family {family!r}: a "
        "judge favours answers of its own kind; check it with gold labels, or take a judge of "
        "another family"
        for juror in judges
        if vendor_of(juror.model) == family
    ]
