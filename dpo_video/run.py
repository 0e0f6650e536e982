"""A run: its folder, samples, store and tracker, which every stage gets, and what a stage gives
back.
"""

import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_object, write_atomic
from dpo_video.core.progress import print_line
from dpo_video.core.records import Sample
from dpo_video.core.status_file import STATUS, shown_status
from dpo_video.core.text import shortened
from dpo_video.core.yaml_file import Yaml, validate
from dpo_video.data.heldout import check_disjoint
from dpo_video.data.removed import removal_counts, write_removed
from dpo_video.data.samples import EvaluationSet, LoadedSamples, load_samples, load_set
from dpo_video.models.control_tokens import recipe_tokens
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import dump_recipe
from dpo_video.store import RunStore
from dpo_video.tracking import Tracker, start_tracking
from dpo_video.video import ClipRequest, clip_key
from dpo_video.video.bad_clips import BadClip, bad_clip, bad_clip_of_row
from dpo_video.video.cache import cache_size

MAX_META_FIELDS = 20
"""Fields beside ours that are named; of more the number is told."""
VERSIONS_OF = (
    "dpo-video",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "av",
    "decord",
    "openai",
)
"""What manifest.json names the versions of, beside Python."""
BAD_CLIP = "bad_clip"
"""Kind of the stored rows about clips that were set aside."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage did. It is finished where nothing is left that the same command would do again.

    Example: `StageResult(counts={"candidates": 8, "scored": 7, "failed": 1},
    incomplete_because="1 judgment failed")`.
    """

    counts: Mapping[str, Any]
    """What the stage's line, manifest.json and the tracker show."""
    incomplete_because: str = ""
    """What is left for the next run of the same command; empty where the stage is complete."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left for the next run of the same command."""
        return not self.incomplete_because


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a stage works on. A stage is a function `stage(run) -> StageResult`."""

    recipe: Recipe
    store: RunStore
    samples: list[Sample]
    heldout: list[Sample]
    video_root: Path
    heldout_root: Path
    tracker: Tracker
    sets: Sequence[EvaluationSet] = ()
    """Those of `evaluate.sets`."""
    cleaned: Mapping[str, int] = field(default_factory=dict)
    """Training samples that cleaning left out, by reason."""
    bad_clips: dict[str, BadClip] = field(default_factory=dict)
    """Clips set aside by this stage in this process."""
    stage: str = ""
    """The stage that is being done; empty outside the pipeline."""
    stage_began: float = field(default_factory=time.monotonic)
    """When the stage was begun, before the imports that it needs, by `time.monotonic`."""
    begin_stage: Callable[[str], None] = field(default=lambda name: None)
    """Tells `dpo-video status` which stage begins."""

    @cached_property
    def num_clips(self) -> int:
        """Clips of the training and the held-out samples, and those of each set."""
        clips = {clip_key(sample) for sample in (*self.samples, *self.heldout)}
        for evaluation_set in self.sets:
            name = evaluation_set.name
            clips |= {f"{name} {clip_key(sample)}" for sample in evaluation_set.loaded.samples}
        return len(clips)

    @property
    def evaluated(self) -> list[Sample]:
        """The samples that both models answer: those held out, and those of each set."""
        samples = list(self.heldout)
        for evaluation_set in self.sets:
            samples += evaluation_set.loaded.samples
        return samples

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.recipe.run_folder

    def set_aside(
        self, clip: str, error: UserError | BadClip, request: ClipRequest | None = None
    ) -> None:
        """Count a clip that cannot be read, and note the files of its request; stop when more than
        `data.max_bad_fraction` of all clips are bad.

        A clip that stays as it was when corrupted is a good one: it costs that pair, and counts for
        no limit.
        """
        fault = error if isinstance(error, BadClip) else bad_clip(error, request)
        self.bad_clips[clip] = fault
        self._note(clip, fault)
        limit = self.recipe.data.max_bad_fraction
        unreadable = [fault for fault in self.bad_clips.values() if fault.code != "unchanged"]
        if len(unreadable) > limit * self.num_clips:
            reasons = "\n".join(f"  {fault.reason}" for fault in unreadable[:5])
            raise UserError(
                f"{len(unreadable)} of {self.num_clips} clips cannot be read, more than "
                f"data.max_bad_fraction {limit:g} allows. Mend or remove them, or raise the limit. "
                f"First:\n{reasons}"
            )

    def unread(self, clips: Iterable[str]) -> str:
        """Return what is left of a stage that met these clips: those set aside that may be read at
        the next try; empty for none.
        """
        faults = [self.bad_clips[clip] for clip in clips if clip in self.bad_clips]
        left = [fault.reason for fault in faults if fault.is_worth_another_try]
        if not left:
            return ""
        clips_are = "1 clip was" if len(left) == 1 else f"{len(left)} clips were"
        return f"{clips_are} not read this time, and may be next time (first: {left[0]})"

    def _note(self, clip: str, fault: BadClip) -> None:
        key = f"{self.stage} {clip}" if self.stage else clip
        self.store.put(
            self.store.own(BAD_CLIP), key, fault.as_row() | {"clip": clip, "stage": self.stage}
        )

    def stored_bad_clips(self) -> dict[str, BadClip]:
        """Return the clips that this stage set aside when it was last done, also in another
        process.
        """
        return {
            row["clip"]: bad_clip_of_row(row)
            for _, row in self.store.rows(self.store.own(BAD_CLIP))
            if row.get("stage") == self.stage and row["reason"]
        }

    def forget_read_clips(self) -> None:
        """Drop the stored notes about clips that the stage, now done, did read this time."""
        for clip in self.stored_bad_clips().keys() - self.bad_clips.keys():
            self._note(clip, BadClip(reason=""))


def recipe_of(folder: Path) -> Recipe:
    """Return the resolved recipe that a run folder's manifest.json keeps."""
    path = folder / "manifest.json"
    if (folder / "rounds").is_dir() and not path.is_file():
        raise UserError(
            f"the run {str(folder)!r} has rounds: give the folder of one of them, e.g. "
            f"{str(folder / 'rounds' / '1')!r}"
        )
    if not path.is_file():
        raise UserError(
            f"no manifest.json in {str(folder)!r}: it is no run's folder, or no stage has finished "
            f"there"
        )
    settings = read_object(path).get("recipe")
    if not isinstance(settings, dict):
        raise UserError(
            f"{path}: it holds no `recipe`, so it is no manifest of a run. Put back a copy of it, "
            "or write it anew: the command that made the run, again"
        )
    recipe = validate(Recipe, Yaml(settings, str(path)))
    return recipe.model_copy(update={"runs_folder": str(folder.parent), "name": folder.name})


def write_manifest(run: Run, stages: Iterable[str]) -> None:
    """Write manifest.json: the resolved recipe, versions, and what each finished stage did."""
    versions = {"python": platform.python_version()}
    for package in VERSIONS_OF:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    manifest = {
        "recipe": run.recipe.model_dump(),
        "versions": versions,
        "bad_clips": {clip: fault.reason for clip, fault in run.bad_clips.items()},
        "cleaned": dict(run.cleaned),
        "cache": cache_size(run.recipe),
        "stages": {name: run.store.finished(name) for name in stages},
    }
    write_atomic(
        run.folder / "manifest.json",
        strict_json.dumps(manifest, indent=2, ensure_ascii=False) + "\n",
    )


@contextmanager
def open_run(recipe: Recipe) -> Iterator[Run]:
    """Open the run folder of a recipe, take its lock, load the samples, start tracking.

    A folder that is made for it goes again where the command fails before there is anything to
    keep.
    """
    if recipe.rounds is not None:
        recipe_file = recipe.run_folder / "rounds" / "N" / "recipe.yaml"
        raise UserError(
            f"the recipe {recipe.name!r} has rounds, which `dpo-video run` does. For a stage of "
            f"one of them give its own recipe: {str(recipe_file)!r}"
        )
    folders = dict.fromkeys((recipe.store_folder, recipe.run_folder))
    new_folders = [folder for folder in folders if not folder.exists()]
    with ExitStack() as after, RunStore(recipe.run_folder, shared=recipe.store_folder) as store:
        for folder in new_folders:
            after.push(partial(_remove_unused, folder, store))
        status = after.enter_context(shown_status(recipe.run_folder))
        tokens = recipe_tokens(recipe)
        heldout = load_samples(recipe, "heldout", tokens=tokens)
        loaded = load_samples(
            recipe, "samples", heldout=heldout.samples, store=store, tokens=tokens
        )
        check_disjoint(
            loaded.samples, heldout.samples, video_root=loaded.root, heldout_root=heldout.root
        )
        if recipe.store is not None:
            _write_recipe(recipe)
        sets = [load_set(recipe, settings, tokens) for settings in recipe.evaluate.sets]
        for evaluation_set in sets:
            check_disjoint(
                loaded.samples,
                evaluation_set.loaded.samples,
                video_root=loaded.root,
                heldout_root=evaluation_set.loaded.root,
                name=f"set {evaluation_set.name!r}",
            )
        splits = {"clean": loaded, "clean held-out": heldout}
        splits |= {f"set {each.name}": each.loaded for each in sets}
        removed = [row for split in splits.values() for row in split.removed]
        write_removed(recipe.run_folder, "sample", removed)
        for name, split in splits.items():
            _print_losses(name, split, recipe.run_folder / "cleaned.jsonl")
        with start_tracking(recipe) as tracker:
            yield Run(
                recipe=recipe,
                store=store,
                samples=loaded.samples,
                heldout=heldout.samples,
                video_root=loaded.root,
                heldout_root=heldout.root,
                tracker=tracker,
                sets=sets,
                cleaned=Counter(row.reason for row in loaded.removed),
                begin_stage=status.begin_stage,
            )


def _write_recipe(recipe: Recipe) -> None:
    """Write the recipe of a round into its folder, for the commands that take one."""
    path, text = recipe.run_folder / "recipe.yaml", dump_recipe(recipe)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text)


def _remove_unused(
    folder: Path, store: RunStore, kind: type[BaseException] | None, *_: object
) -> None:
    """Remove a new run folder after an error, unless it holds a row or a file of a stage."""
    files = {path.name for path in folder.iterdir()} - {"cleaned.jsonl", STATUS}
    holds_results = any(name.endswith((".jsonl", ".json")) for name in files)
    if kind is not None and not (store.has_put or holds_results or "checkpoints" in files):
        shutil.rmtree(folder, ignore_errors=True)


def _print_losses(name: str, loaded: LoadedSamples, path: Path) -> None:
    """Print what was left out of a split by reason, and the fields that change nothing."""
    if loaded.removed:
        print_line(f"{name}: {removal_counts(loaded.num_records, loaded.removed)}; {path}")
    if loaded.num_stripped:
        print_line(f"{name}: {loaded.num_stripped} answers lost the end token that closed them")
    if loaded.meta_fields:
        fields = ", ".join(shortened(field) for field in loaded.meta_fields[:MAX_META_FIELDS])
        num_more = len(loaded.meta_fields) - MAX_META_FIELDS
        ending = f" and {num_more} more" if num_more > 0 else ""
        print_line(f"{name}: kept as `meta`, without effect: {fields}{ending}")
