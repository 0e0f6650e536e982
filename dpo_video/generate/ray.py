"""Candidates from policies on the workers of a Ray cluster: the same rows and keys as
`generate.engine: local`.

A worker takes a few clips at a time and writes all their missing answers; the answers are stored
here as they come, so that a killed run loses at most the clips under way.
"""

import json
import pickle
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.progress import progress
from dpo_video.core.ray_cluster import cluster, error_as_row, spread, workers_of
from dpo_video.generate.jobs import GenerationJob, PendingCandidate
from dpo_video.generate.local import answer_here
from dpo_video.models.load import load_policy
from dpo_video.recipe import ModelSettings, Recipe
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.tracking import Tracker

CLIPS = 4
"""Clips that a worker takes at a time."""
KINDS = ("candidate", "bad_clip")
"""Rows that come back."""


def answer_on_cluster(
    run: Run, work: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> Counter[str]:
    """Store the missing candidates; return the counts of all workers together."""
    counts: Counter[str] = Counter()
    recipe = run.recipe.model_copy(
        update={
            "model": located(run.recipe.model),
            "data": run.recipe.data.model_copy(update={"max_bad_fraction": 1.0}),
        }
    )
    sent = replace(
        work,
        load=None,
        samples=[],
        engine="local",
        root=work.root.absolute(),
        model=work.model and located(work.model),
        adapter=work.adapter and work.adapter.absolute(),
    )
    # pickled: a clip's requests stay together in one row, and Ray needs no schema of ours
    rows = [{"clip": clip, "asked": pickle.dumps(list(asked))} for clip, asked in missing.items()]
    total = sum(map(len, missing.values()))
    given = {"recipe": recipe.model_dump_json(), "work": sent}
    with cluster() as resources, progress(work.title, total=total) as advance:
        workers, gpus = workers_of(resources)
        for row in spread(
            rows, Worker, given=given, workers=min(workers, len(rows)), batch_rows=CLIPS, gpus=gpus
        ):
            kind, key, body = row["kind"], row["key"], json.loads(row["body"])
            if kind == "bad_clip":
                run.set_aside(key, UserError(body["reason"]))
                advance(len(missing[key]), bad_clips=len(run.bad_clips))
            elif kind == "counts":
                counts.update(body)
            else:
                run.store.put(kind, key, body)
                advance(1)
    return counts


def located(model: ModelSettings) -> ModelSettings:
    """Return the model's settings with a folder's full path: workers start elsewhere."""
    folder = Path(model.name).expanduser()
    return model.model_copy(update={"name": str(folder.absolute())}) if folder.is_dir() else model


class Worker:
    """One worker's policy, loaded once; it stores answers in a run folder of its own, which lasts
    for a batch.
    """

    def __init__(self, recipe: str, work: GenerationJob) -> None:
        self.recipe, self.work = Recipe.model_validate_json(recipe), work

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Return `kind`, `key` and `body` (JSON) of stored rows, and one of kind `counts`, for
        clips and questions.
        """
        return error_as_row(partial(self._answer, batch), ("kind", "key", "body"))

    def _answer(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        work = self.work
        if work.load is None:
            model = work.model or self.recipe.model
            self.work = work = replace(
                work, load=cache(partial(load_policy, model, adapter=work.adapter))
            )
        missing = {
            str(clip): pickle.loads(asked)
            for clip, asked in zip(batch["clip"], batch["asked"], strict=True)
        }
        samples = [one.sample for asked in missing.values() for one in asked]
        with (
            tempfile.TemporaryDirectory(prefix="dpo-video-worker-") as folder,
            RunStore(Path(folder)) as store,
        ):
            run = Run(
                recipe=self.recipe,
                store=store,
                samples=samples,
                heldout=[],
                video_root=work.root,
                heldout_root=work.root,
                tracker=Tracker(),
            )
            counts = answer_here(run, work, missing)
            rows = [(kind, key, json.dumps(row)) for kind in KINDS for key, row in store.rows(kind)]
        rows.append(("counts", "", json.dumps(counts)))
        return {
            name: [row[place] for row in rows] for place, name in enumerate(("kind", "key", "body"))
        }
