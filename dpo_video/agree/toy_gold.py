"""Gold labels of the toy world, where the scene behind every clip is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_video.agree.gold import Gold, GoldGrade, LabelledAnswer
from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.core.records import Candidate, Sample
from dpo_video.run import Run
from dpo_video.toy.clips import read_scenes
from dpo_video.toy.gold import grade
from dpo_video.toy.questions import Question, all_questions, find_question
from dpo_video.toy.scene import COLOURS, SHAPES, Scene

TOY_GOLD = ("toy:train", "toy:heldout")


@dataclass(frozen=True, kw_only=True)
class _Split:
    """Samples of the toy world, and the folder of their clips."""

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
    samples_source = run.recipe.data.samples if train else run.recipe.data.heldout
    if samples_source != name:
        key = "data.samples" if train else "data.heldout"
        raise UserError(
            f"--gold {name} is for runs on the toy world, and {key} of this run is "
            f"{samples_source!r}. Give a JSONL file of gold labels"
        )
    split = _Split(
        samples=run.samples if train else run.heldout,
        folder=run.video_root if train else run.heldout_root,
    )
    samples = {sample.id: sample for sample in split.samples}
    scenes = read_scenes(split.folder)
    graded = list(candidates)
    if not train:
        graded = []
        for sample in split.samples:
            graded += _written_answers(sample, scenes)
    answers: dict[str, LabelledAnswer] = {
        answer.id: (samples[answer.sample_id], answer) for answer in graded
    }
    grades = [
        GoldGrade(
            candidate_id=answer.id,
            score=float(grade(_scene(sample, scenes), sample.prompt, answer.text).score),
        )
        for sample, answer in answers.values()
    ]
    return Gold(source=name, answers=answers, grades=grades)


def _scene(sample: Sample, scenes: dict[str, Scene]) -> Scene:
    return scenes[str(sample.video)]


def _written_answers(sample: Sample, scenes: dict[str, Scene]) -> list[Candidate]:
    """Return four answers of known quality; what they vary turns with the sample, so that no word
    gives them away.
    """
    scene = _scene(sample, scenes)
    question = find_question(scene, sample.prompt)
    turn = sum(map(ord, sample.id))
    absent = [shape for shape in SHAPES if scene.find(shape) is None]
    false_extra = f"There is also a {COLOURS[turn % len(COLOURS)]} {absent[turn % len(absent)]}."
    other_questions = [
        question_of_scene
        for question_of_scene in all_questions(scene)
        if question_of_scene.prompt != question.prompt
    ]
    true_extra = other_questions[turn % len(other_questions)].answer
    texts = [
        question.answer,
        f"{question.answer} {true_extra}",
        f"{question.answer} {false_extra}",
        _wrong_answer(
            question, [other_scene for other_scene in scenes.values() if other_scene != scene], turn
        ),
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


def _wrong_answer(question: Question, scenes: Sequence[Scene], turn: int) -> str:
    """Return another answer to the question: that of the first of the scenes, from `turn` on, where
    it is another.
    """
    for index in range(len(scenes)):
        for other in all_questions(scenes[(turn + index) % len(scenes)]):
            same_question = other.kind == question.kind and other.shape == question.shape
            if same_question and other.answer != question.answer:
                return other.answer
    raise LookupError(f"no other scene answers {question.prompt!r} in another way")
