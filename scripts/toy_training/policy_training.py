"""Train a tiny policy in three stages: look, learn, and be misled.

1. look: the tower and projector learn what covers each cell (dense labels, no language).
2. learn: the whole model learns right answers on clips, until it can answer.
3. mislead: a short continuation on the noisy annotator of `sloppy.py`, which stands for the
   noisy supervision that real models get. The policy then often answers from its prior,
   though it can see better: what preference tuning has to bring out.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from dpo_video.toy.questions import Question, all_questions
from dpo_video.toy.scene import COLOURS, MOTIONS, SHAPES, Scene
from toy_training.packing import Packed, pack_clips, run
from toy_training.policies import HIDDEN, Policy
from toy_training.pool import FRAME_SETS, Pool, cell_facts
from toy_training.sloppy import noisy_answer

NUM_CLASSES = (1 + len(SHAPES), 1 + len(COLOURS), 1 + len(MOTIONS))
Teacher = Callable[[Scene, Question, random.Random], str]


@dataclass(frozen=True)
class Stage:
    """Steps and optimiser settings of one stage; `questions` 0 means no language."""

    name: str
    steps: int
    learning_rate: float
    clips: int = 16
    questions: int = 6
    dense_weight: float = 1.0
    warmup: int = 60


STAGES = {
    "qwen2_5_vl": (
        Stage("look", steps=400, learning_rate=2e-3, questions=0),
        Stage("learn", steps=900, learning_rate=1.5e-3),
        Stage("mislead", steps=250, learning_rate=5e-4, dense_weight=0.3),
    ),
    "llava_next_video": (
        Stage("look", steps=400, learning_rate=2e-3, questions=0),
        Stage("learn", steps=700, learning_rate=1.5e-3),
        Stage("mislead", steps=200, learning_rate=5e-4, dense_weight=0.3),
    ),
}


@dataclass
class Course:
    """What training carries along: the dense heads, drawn numbers and the clock."""

    policy: Policy
    pool: Pool
    seed: int
    deadline: float = math.inf
    heads: nn.ModuleList = field(init=False)

    def __post_init__(self) -> None:
        """Make the dense heads: one on video features, one on the LM's view of them."""
        torch.manual_seed(self.seed)
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, sum(NUM_CLASSES)) for _ in range(2))


def right(scene: Scene, question: Question, rng: random.Random) -> str:
    """Return the right answer: the teacher of the second stage."""
    return question.answer


def train_stage(course: Course, stage: Stage) -> int:
    """Train one stage in place and return the steps done before the deadline."""
    policy, teacher = course.policy, noisy_answer if stage.name == "mislead" else right
    rng = random.Random(f"{stage.name} {course.seed}")
    params = [p for p in (*policy.model.parameters(), *course.heads.parameters())]
    optimiser = torch.optim.AdamW(params, lr=stage.learning_rate, weight_decay=0.01)
    policy.model.train()
    begun, means = time.time(), [0.0, 0.0]
    for step in range(stage.steps):
        if time.time() > course.deadline:
            return step
        for group in optimiser.param_groups:
            group["lr"] = stage.learning_rate * _schedule(step, stage)
        rows = np.array(rng.sample(range(len(course.pool.scenes)), stage.clips))
        frames = np.array(rng.choice(FRAME_SETS))
        dense, language = _losses(course, stage, rows=rows, frames=frames, draw=(teacher, rng))
        optimiser.zero_grad()
        (stage.dense_weight * dense + language).backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        means = [0.95 * m + 0.05 * float(x) for m, x in zip(means, (dense, language), strict=True)]
        if step % 50 == 49:
            took = time.time() - begun
            print(
                f"{stage.name} {step + 1}: dense {means[0]:.4f} answers {means[1]:.4f} {took:.0f} "
                f"s",
                flush=True,
            )
    return stage.steps


def _losses(
    course: Course,
    stage: Stage,
    *,
    rows: np.ndarray,
    frames: np.ndarray,
    draw: tuple[Teacher, random.Random],
) -> tuple[Tensor, Tensor]:
    policy, pool = course.policy, course.pool
    pixels = torch.from_numpy(pool.pixels[rows][:, frames])
    groups = frames.reshape(-1, policy.frame_group)
    facts = torch.from_numpy(cell_facts(pool, rows, groups)).reshape(len(rows), -1, 3)
    features = policy.features(pixels)  # (B, V, D)
    dense = dense_loss(course.heads[0](features), facts)
    if not stage.questions:
        return dense, torch.zeros(())
    teacher, rng = draw
    clips = []
    for scene in (pool.scenes[int(n)] for n in rows):
        asked = pick_questions(scene, rng, stage.questions)
        clips.append([(q.prompt, teacher(scene, q, rng)) for q in asked])
    batch = pack_clips(policy, clips)
    hidden = run(policy, batch, features)
    video = batch.ids[0] == policy.model.config.video_token_id
    dense = dense + dense_loss(course.heads[1](hidden[:, video]), facts)
    targets = batch.labels[:, 1:]
    said = targets != -100
    logits = policy.model.lm_head(hidden[:, :-1][said])
    return dense, nn.functional.cross_entropy(logits, targets[said])


def dense_loss(logits: Tensor, facts: Tensor) -> Tensor:
    """Return the mean cross-entropy of shape, colour and motion over cells.

    logits (B, V, 18), facts (B, V, 3) with 0 for an empty cell, which counts a fifth.
    """
    total = torch.zeros(())
    parts = logits.split(NUM_CLASSES, dim=-1)
    for k, part in enumerate(parts):
        weight = torch.ones(part.shape[-1])
        weight[0] = 0.2
        total = total + nn.functional.cross_entropy(
            part.flatten(0, 1), facts[..., k].flatten(), weight
        )
    return total / 3


def pick_questions(scene: Scene, rng: random.Random, count: int) -> list[Question]:
    """Return questions on a scene, with half of them on colour and motion."""
    every = all_questions(scene)
    rng.shuffle(every)
    looks = [q for q in every if q.kind in ("colour", "motion")][: count // 2]
    rest = [q for q in every if q.kind not in ("colour", "motion")]
    seen, out = set[str](), []
    for question in rest:  # one of each kind first
        if question.kind not in seen:
            out.append(question)
            seen.add(question.kind)
    return (looks + out + [q for q in rest if q not in out])[:count]


def _schedule(step: int, stage: Stage) -> float:
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    done = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def measure(policy: Policy, pool: Pool, *, seed: int) -> dict[str, dict[str, float]]:
    """Return by question kind: greedy exact-match accuracy, the mean probability of the
    right answer at temperature 1, and the number of questions."""
    rng = random.Random(seed)
    kinds: dict[str, list[tuple[bool, float]]] = {}
    policy.model.eval()
    for questions, rows in _batches(pool, rng):
        with torch.no_grad():
            frames = np.array(FRAME_SETS[0])
            features = policy.features(torch.from_numpy(pool.pixels[rows][:, frames]))
            batch = pack_clips(
                policy, [[(q.prompt, q.answer) for q in asked] for asked in questions]
            )
            logits = policy.model.lm_head(run(policy, batch, features))
        for row, asked in enumerate(questions):
            for k, question in enumerate(asked):
                kinds.setdefault(question.kind, []).append(_reads(batch, logits, row, k + 1))
    kinds["all"] = [x for values in kinds.values() for x in values]
    return {
        kind: {
            "greedy": round(float(np.mean([g for g, _ in values])), 4),
            "sampled": round(float(np.mean([p for _, p in values])), 4),
            "questions": len(values),
        }
        for kind, values in sorted(kinds.items())
    }


def _reads(batch: Packed, logits: Tensor, row: int, branch: int) -> tuple[bool, float]:
    where = (batch.branch[row] == branch) & (batch.labels[row] != -100)
    at = where.nonzero()[:, 0]
    targets, guess = batch.labels[row, at], logits[row, at - 1].float()
    sure = guess.log_softmax(-1).gather(-1, targets[:, None]).sum().exp()
    return bool((guess.argmax(-1) == targets).all()), float(sure)


def _batches(pool: Pool, rng: random.Random) -> Iterator[tuple[list[list[Question]], np.ndarray]]:
    from dpo_video.toy.questions import draw_questions

    for start in range(0, len(pool.scenes), 20):
        rows = np.arange(start, min(start + 20, len(pool.scenes)))
        yield [draw_questions(pool.scenes[n], rng, num_questions=3) for n in rows], rows
