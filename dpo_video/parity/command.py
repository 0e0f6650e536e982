"""`dpo-video parity RUN --base-url URL`: does a server answer as the tuned model does here?

Writes RUN/parity.json, the numbers, and RUN/parity.jsonl, a line a question and way.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Literal

from dpo_video.client.endpoint import Service
from dpo_video.client.pool import Pool, ask_servers
from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_atomic
from dpo_video.core.progress import log
from dpo_video.core.records import Sample
from dpo_video.core.report import ReportVerdict
from dpo_video.core.turns import whole_question
from dpo_video.evaluate.questions import asked_prompt
from dpo_video.models.control_tokens import checkpoint_tokens
from dpo_video.models.decoding import frames_alone, model_pool, sound_format
from dpo_video.models.hub import model_spec
from dpo_video.models.load import load_policy
from dpo_video.parity.compare import (
    AnswerParity,
    WayParity,
    compare_way,
    first_difference,
    is_tuned,
    verdict_of,
)
from dpo_video.parity.local import (
    LocalAnswers,
    adapter_folder,
    image_answers,
    local_answers,
    logp_gaps,
)
from dpo_video.parity.server import (
    Approach,
    ServedAnswer,
    Way,
    find_approach,
    readable_requests,
    served_answers,
    served_models,
    shown_clip,
)
from dpo_video.recipe.section import server_address
from dpo_video.run import Run
from dpo_video.video import VideoError, clip_key

ShownAs = Literal["auto", "film", "images"]


@dataclass(frozen=True, kw_only=True)
class ParityOptions:
    """What is asked of a server, and how."""

    base_url: str
    model: str = ""
    """Its name on the server; empty where the server has one only."""
    shown_as: ShownAs = "auto"
    limit: int = 0
    """Held-out questions to ask; 0 asks all."""
    min_equal: float = 0.9
    """Share of the answers that must be equal."""
    timeout: float = 300.0


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """What a comparison came to."""

    model: str
    ways: tuple[WayParity, ...]
    verdict: ReportVerdict
    holds: bool
    """The served answers are the tuned model's."""
    refused: tuple[str, ...]
    """What the server said to the ways that it does not take."""
    questions: int
    bad_clips: int


def parity(run: Run, options: ParityOptions) -> ParityReport:
    """Ask a server the held-out questions greedily and compare with the answers here.

    Raises UserError where the run has no adapter or no held-out questions, where the server cannot
    be asked about clips, or answers nothing.
    """
    adapter = adapter_folder(run)
    run = _without_sound(run)
    samples = [
        replace(sample, prompt=asked_prompt(sample))
        for sample in run.heldout[: options.limit or None]
    ]
    if not samples:
        raise UserError(
            "parity asks the held-out questions, and the run has none: set data.heldout"
        )
    service = _service(run, options)
    approach = ask_servers(
        replace(service, retries=1, asks_refused=True),  # some close the connection after an error
        lambda pool: _find(run, pool, samples, options.shown_as),
        setting="dpo-video parity",
        say=log.info,
    )
    local = local_answers(run, samples)
    served = _ask(run, service, approach, samples)
    gaps: dict[str, tuple[float, float]] = {}
    first = approach.ways[0]
    as_pictures = first == "images" and model_spec(run.recipe.model).family.frames_as == "video"
    has_logps = any(answer.logps for answer in served[first].values())
    if as_pictures or has_logps:
        policy = load_policy(run.recipe.model, adapter=adapter)
        if as_pictures:
            local = image_answers(run, policy, samples)
        else:
            gaps = logp_gaps(run, policy, samples, served[first])
    report, rows = _compare(run, options, approach, samples, served, local, gaps)
    report = replace(report, model=service.model)
    lines = (strict_json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    write_atomic(run.folder / "parity.jsonl", lines)
    _write(run, report, service)
    return report


def _without_sound(run: Run) -> Run:
    """Return the run with its clips silent where its model hears: no server is sent their sound."""
    spec = model_spec(run.recipe.model)
    if sound_format(spec, run.recipe.video) is None:
        return run
    log.info("parity: a server gets clips without their sound, so they are silent here too")
    silent = run.recipe.model_copy(update={"video": frames_alone(run.recipe.video)})
    return replace(run, recipe=silent)


def _service(run: Run, options: ParityOptions) -> Service:
    settings = run.recipe.generate
    try:
        server_address(options.base_url)
    except ValueError as error:
        raise UserError(f"--base-url: {error}") from None
    service = Service(
        section="",
        urls=(options.base_url,),
        model=options.model,
        key=os.environ.get(settings.api_key_env) or "none",
        key_variable=settings.api_key_env,
        concurrency=settings.concurrency,
        timeout=options.timeout,
        retries=settings.retries,
    )
    if options.model:
        return service
    names = served_models(service)
    if len(names) != 1:
        raise UserError(
            f"{options.base_url} serves {', '.join(map(repr, names)) or 'no model'}: name the one "
            "to compare with --model"
        )
    return replace(service, model=names[0])


async def _find(run: Run, pool: Pool, samples: Sequence[Sample], shown_as: ShownAs) -> Approach:
    """Return how to ask, found out with the first question whose clip can be read."""
    spec = model_spec(run.recipe.model)
    ways: tuple[Way, ...] = ("film", "images")
    if shown_as != "auto":
        ways = (shown_as,)
    elif spec.family.frames_as == "images":
        ways = ("images", "film")
    first: UserError | None = None
    with model_pool(spec, run.recipe.video) as frames:
        for sample in samples:
            for request in readable_requests(run, {clip_key(sample): [sample]}):
                decoded = frames.read(request)
                if isinstance(decoded, VideoError):
                    first = first or decoded
                    continue
                clip = shown_clip(run, request, decoded, ways)
                approach = await find_approach(
                    pool, clip, sample, max_tokens=run.recipe.evaluate.max_new_tokens
                )
                takes_video = approach.ways == ("film",)
                return replace(approach, ways=("film", "file") if takes_video else approach.ways)
    raise UserError(f"no clip of the held-out questions can be read: {first}")


def _ask(
    run: Run, service: Service, approach: Approach, samples: Sequence[Sample]
) -> dict[Way, dict[str, ServedAnswer]]:
    served = ask_servers(
        service,
        lambda pool: served_answers(
            run, pool, approach, samples, max_tokens=run.recipe.evaluate.max_new_tokens
        ),
        setting="dpo-video parity",
        say=log.info,
    )
    if not served[approach.ways[0]]:
        raise UserError(
            f"{service.urls[0]} answered none of {len(samples)} questions: see its own log"
        )
    tokens = checkpoint_tokens(run.recipe.model)
    for answers in served.values():
        for name, answer in answers.items():
            answers[name] = replace(answer, text=tokens.without_end(answer.text))
    return served


def _compare(
    run: Run,
    options: ParityOptions,
    approach: Approach,
    samples: Sequence[Sample],
    served: Mapping[Way, Mapping[str, ServedAnswer]],
    local: LocalAnswers,
    gaps: Mapping[str, tuple[float, float]],
) -> tuple[ParityReport, list[AnswerParity]]:
    ways, rows = [], []
    for way in approach.ways:
        answers = served[way]
        way_rows = [
            _row(sample, way, answers[sample.id], local, gaps if way == approach.ways[0] else {})
            for sample in samples
            if sample.id in answers and sample.id in local.tuned and sample.id in local.base
        ]
        tokens = [
            answer.prompt_tokens for answer in answers.values() if answer.prompt_tokens is not None
        ]
        if way == "file" and not way_rows:
            continue
        ways.append(
            compare_way(
                way,
                way_rows,
                failed=len(samples) - len(way_rows),
                prompt_tokens=fmean(tokens) if tokens else None,
            )
        )
        rows += way_rows
    report = ParityReport(
        model=options.model,
        ways=tuple(ways),
        verdict=verdict_of(ways, options.min_equal),
        holds=is_tuned(ways[0], options.min_equal),
        refused=approach.refused,
        questions=len(samples),
        bad_clips=len(run.bad_clips),
    )
    return report, rows


def _row(
    sample: Sample,
    way: Way,
    answer: ServedAnswer,
    local: LocalAnswers,
    gaps: Mapping[str, tuple[float, float]],
) -> AnswerParity:
    gap, base_gap = gaps.get(sample.id, (None, None))
    tuned = local.tuned[sample.id]
    return AnswerParity(
        sample_id=sample.id,
        video=sample.video if isinstance(sample.video, str) else clip_key(sample),
        prompt=whole_question(sample),
        shown_as=way,
        tuned=tuned,
        base=local.base[sample.id],
        served=answer.text,
        first_difference=first_difference(answer.text, tuned),
        logp_gap=gap,
        base_logp_gap=base_gap,
    )


def _write(run: Run, report: ParityReport, service: Service) -> None:
    row: dict[str, Any] = asdict(report)
    row["ways"] = [asdict(way) | {"share_equal": way.share_equal} for way in report.ways]
    row["base_url"] = service.urls[0]
    write_atomic(run.folder / "parity.json", strict_json.dumps(row, indent=2) + "\n")
