"""Gold labels of the toy world, where the scene behind every clip is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_video.agree.gold import Gold, Grade, Item
from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.core.records import Candidate, Sample
from dpo_video.run import Run
from dpo_video.toy.clips import read_scenes
from dpo_video.toy.gold import grade
from dpo_video.toy.questions import all_questions, find_question
from dpo_video.toy.scene import COLOURS, SHAPES, Scene

TOY_GOLD = ("toy:train", "toy:heldout")


@dataclass(frozen=True, kw_only=True)
class _Source:
    samples: Sequence[Sample]
    folder: Path


def toy_gold(run: Run, name: str, candidates: Sequence[Candidate]) -> Gold:
    """Return the grades of the gold grader: `toy:train` of the run's candidates, `toy:heldout` of
    four answers written to each held-out question (right; right and a true extra; right and a thing
    that is not there; wrong).
    """
    if name not in TOY_GOLD:
        raise UserError(
            f"unknown toy gold {name!r}.{did_you_mean(name, TOY_GOLD)} Known: {', '.join(TOY_GOLD)}"
        )
    train = name == "toy:train"
    given = run.recipe.data.samples if train else run.recipe.data.heldout
    if given != name:
        key = "data.samples" if train else "data.heldout"
        raise UserError(
            f"--gold {name} is for runs on the toy world, and {key} of this run is {given!r}. Give "
            f"a JSONL "
            "file of gold labels"
        )
    source = _Source(
        samples=run.samples if train else run.heldout,
        folder=run.video_root if train else run.heldout_root,
    )
    samples = {sample.id: sample for sample in source.samples}
    scenes = read_scenes(source.folder)
    written = (
        candidates
        if train
        else [one for sample in source.samples for one in _answers(sample, scenes)]
    )
    items: dict[str, Item] = {one.id: (samples[one.sample_id], one) for one in written}
    grades = [
        Grade(
            candidate_id=one.id,
            score=float(grade(_scene(sample, scenes), sample.prompt, one.text).score),
        )
        for sample, one in items.values()
    ]
    return Gold(source=name, items=items, grades=grades)


def _scene(sample: Sample, scenes: dict[str, Scene]) -> Scene:
    return scenes[str(sample.video)]


def _answers(sample: Sample, scenes: dict[str, Scene]) -> list[Candidate]:
    """Return four answers of known quality; what they vary turns with the sample, so that no word
    gives them away.
    """
    scene = _scene(sample, scenes)
    asked = find_question(scene, sample.prompt)
    turn = sum(map(ord, sample.id))
    absent = [shape for shape in SHAPES if scene.find(shape) is None]
    missing = f"There is also a {COLOURS[turn % len(COLOURS)]} {absent[turn % len(absent)]}."
    others = [one for one in all_questions(scene) if one.prompt != asked.prompt]
    other_scenes = [other for other in scenes.values() if other != scene]
    wrong = [
        one.answer
        for k in range(len(other_scenes))
        for one in all_questions(other_scenes[(turn + k) % len(other_scenes)])
        if one.kind == asked.kind and one.shape == asked.shape and one.answer != asked.answer
    ]
    texts = [
        asked.answer,
        f"{asked.answer} {others[turn % len(others)].answer}",
        f"{asked.answer} {missing}",
        wrong[0],
    ]
    return [
        Candidate(
            id=f"{sample.id}#written{k}",
            sample_id=sample.id,
            text=text,
            model="toy:gold",
            settings="gold",
            seed=0,
        )
        for k, text in enumerate(texts)
    ]
