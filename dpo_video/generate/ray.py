"""Candidates from policies on the workers of a Ray cluster: the same rows and keys as
`generate.engine: local`.

A worker takes a few clips at a time and writes all their missing answers; the answers are stored
here as they come, so that a killed run loses at most the clips under way.
"""

import pickle
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.progress import progress
from dpo_video.core.ray_cluster import cluster, error_as_row, map_on_workers, workers_of
from dpo_video.generate.jobs import (
    GenerationJob,
    MissingCandidates,
    PendingCandidate,
    add_counts,
    group_by_clip,
    title_of,
)
from dpo_video.generate.local import Written, counts_set_aside, write_missing
from dpo_video.models.load import load_policy
from dpo_video.recipe import ModelSettings, Recipe
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.tracking import Tracker
from dpo_video.video import clip_key
from dpo_video.video.bad_clips import bad_clip_of_row
from dpo_video.video.cache import cache_folder

CLIPS = 4
"""Clips that a worker takes at a time."""
KINDS = ("candidate", "bad_clip")
"""Rows that come back."""
COLUMNS = ("kind", "key", "body")


def answer_on_cluster(
    run: Run, jobs: Sequence[GenerationJob], missing: MissingCandidates
) -> Counter[str]:
    """Store the missing candidates; return the counts of all workers together."""
    counts: Counter[str] = Counter()
    over_context: Counter[str] = Counter()
    worker_jobs = [
        replace(
            job,
            load=None,
            samples=[],
            engine="local",
            root=job.root.absolute(),
            model=job.model and located(job.model),
            adapter=job.adapter and job.adapter.absolute(),
        )
        for job in jobs
    ]
    # pickled: all that is asked of a clip stays in one row, and Ray needs no schema of ours
    by_file: dict[str, list[PendingCandidate]] = {}
    for candidate in chain.from_iterable(missing.values()):
        by_file.setdefault(clip_key(candidate.shown.sample), []).append(candidate)
    rows = [
        {"clip": clip, "candidates": pickle.dumps(candidates)}
        for clip, candidates in by_file.items()
    ]
    total = sum(map(len, missing.values()))
    with cluster() as resources, progress(title_of(jobs), total=total) as advance:
        workers, gpus = workers_of(resources)
        for row in map_on_workers(
            rows,
            GenerationWorker,
            kwargs={"recipe": worker_recipe(run.recipe).model_dump_json(), "jobs": worker_jobs},
            workers=min(workers, len(rows)),
            batch_rows=CLIPS,
            gpus=gpus,
        ):
            kind, key, body = row["kind"], row["key"], strict_json.loads(row["body"])
            if kind == "bad_clip":
                run.set_aside(key, bad_clip_of_row(body))
                lost = by_file.get(key) or missing.get(key, ())
                advance(len(lost), **counts_set_aside(run, over_context))
            elif kind == "over_context":
                over_context[key] += body
                advance(body, **counts_set_aside(run, over_context))
            elif kind == "counts":
                add_counts(counts, body)
            else:
                run.store.put(kind, key, body)
                advance(1)
    return Written(counts, over_context).all_counts()


def worker_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe as workers take it, who start elsewhere and stop for no number of bad
    clips; the run folder may be here alone, so that they keep nothing of clips unless told where.
    """
    video, runs = recipe.video, Path(recipe.runs_folder).expanduser().absolute()
    if video.cache_folder is not None:
        kept = {"cache_folder": str(cache_folder(recipe).absolute())}
    else:
        kept = {"cache": "none"} if video.cache == "auto" else {}
    return recipe.model_copy(
        update={
            "model": located(recipe.model),
            "runs_folder": str(runs),
            "video": video.model_copy(update=kept),
            "data": recipe.data.model_copy(update={"max_bad_fraction": 1.0}),
        }
    )


def located(model: ModelSettings) -> ModelSettings:
    """Return the model's settings with a folder's full path: workers start elsewhere."""
    folder = Path(model.name).expanduser()
    return model.model_copy(update={"name": str(folder.absolute())}) if folder.is_dir() else model


class GenerationWorker:
    """One worker's policy, loaded once; it stores answers in a run folder of its own, which lasts
    for a batch.
    """

    def __init__(self, recipe: str, jobs: Sequence[GenerationJob]) -> None:
        self.recipe, self.jobs = Recipe.model_validate_json(recipe), jobs

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Return `kind`, `key` and `body` (JSON) of what became of clips and questions: stored
        rows, samples `over_context` with their number of candidates, and one row of `counts`.
        """
        return error_as_row(partial(self._answer, batch), COLUMNS)

    def _answer(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        job = self.jobs[0]
        if job.load is None:
            model = job.model or self.recipe.model
            load = cache(partial(load_policy, model, adapter=job.adapter))
            self.jobs = [replace(job, load=load) for job in self.jobs]
        candidates = list(chain.from_iterable(map(pickle.loads, batch["candidates"])))
        with (
            tempfile.TemporaryDirectory(prefix="dpo-video-worker-") as folder,
            RunStore(Path(folder)) as store,
        ):
            run = Run(
                recipe=self.recipe,
                store=store,
                samples=[candidate.sample for candidate in candidates],
                heldout=[],
                video_root=job.root,
                heldout_root=job.root,
                tracker=Tracker(),
            )
            counts, over_context = write_missing(run, self.jobs, group_by_clip(candidates))
            rows = [("counts", "", strict_json.dumps(counts))]
            rows += [("over_context", key, str(number)) for key, number in over_context.items()]
            for kind in KINDS:
                rows += [(kind, key, strict_json.dumps(row)) for key, row in store.rows(kind)]
        return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
