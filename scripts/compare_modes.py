"""Hold the modes of judging against gold in the toy world, side by side.

    python scripts/compare_modes.py [--answers-of policy|writer] [--clips 40] [--answers 5] [--seed
    0]
        [--judge toy:pairwise_judge] [--json FILE]

Answers are sampled by the toy policy on held-out scenes at temperature 1, or written: of every
quality, some broken or with a verdict of their own in them. Pair accuracy: of two answers to one
question with different gold grades, how often the better one has the higher score; equal scores
count half, an answer without a score counts as wrong. The 95 % interval resamples whole clips.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import torch  # noqa: E402
from toy_training import pool  # noqa: E402
from toy_training.judge_data import candidate  # noqa: E402
from toy_training.sampling import sample_answers  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from dpo_video.core.records import Candidate, Judgment, Sample  # noqa: E402
from dpo_video.core.statistics import bootstrap_ci  # noqa: E402
from dpo_video.judge.backends import registry as backends  # noqa: E402
from dpo_video.judge.scorer import load_scorer  # noqa: E402
from dpo_video.judge.stage import judge_candidates  # noqa: E402
from dpo_video.recipe import JudgeSettings  # noqa: E402
from dpo_video.store import RunStore  # noqa: E402
from dpo_video.toy.gold import grade  # noqa: E402
from dpo_video.toy.models import checkpoint  # noqa: E402
from dpo_video.toy.questions import Question, caption, draw_questions  # noqa: E402
from dpo_video.toy.scene import Scene  # noqa: E402

Item = tuple[Sample, Candidate]
POLICY = "qwen2_5_vl"
FIRST = "toy:judge"
"""The judge that sits beside the other on the jury, and is asked first in the cascade."""


def modes(judge: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return each row's scorer and judge settings."""
    return {
        "score (labels)": ("caption_score", {}),
        "verdict (written)": ("caption_score", {"score_from": "verdict"}),
        "claims, sentences": ("caption_claims", {"split_claims": "sentences"}),
        "pairwise, all others": ("caption_pairwise", {}),
        "pairwise, 2 opponents": ("caption_pairwise", {"opponents": 2}),
        f"jury with {FIRST}": ("caption_score", {"jury": [{}, {"model": FIRST}]}),
        f"cascade, {FIRST} first": ("caption_score", {"cascade": {"model": FIRST, "below": 0.7}}),
        f"score by {FIRST}": ("caption_score", {"model": FIRST}),
    }


def gather(
    source: str, num_clips: int, num_answers: int, seed: int
) -> tuple[list[Item], dict[str, int]]:
    """Return answers on held-out scenes, and the gold score of each by candidate id."""
    held = pool.make_pool(num_clips, seed=seed, part="heldout")
    rng, items, gold = random.Random(seed), [], {}
    captions: dict[int, str] = {}
    samples: dict[tuple[int, str], Sample] = {}
    counts: Counter[str] = Counter()
    numbers = {id(scene): number for number, scene in enumerate(held.scenes)}
    for scene, question, text in SOURCES[source](held, num_answers, seed):
        clip = numbers[id(scene)]
        told = captions.setdefault(clip, caption(scene, rng))
        sample = samples.setdefault(
            (clip, question.prompt),
            Sample(
                id=f"clip{clip}/{question.prompt}",
                video=f"clip{clip}",
                prompt=question.prompt,
                caption=told,
            ),
        )
        said = Candidate(
            id=f"{sample.id}#{counts[sample.id]}",
            sample_id=sample.id,
            text=text,
            model=source,
            settings="",
            seed=seed,
        )
        counts[sample.id] += 1
        items.append((sample, said))
        gold[said.id] = grade(scene, question, text).score
    return items, gold


def written(held: pool.Pool, num_answers: int, seed: int) -> list[tuple[Scene, Question, str]]:
    """Return answers of every quality to three questions a clip."""
    rng = random.Random(seed)
    asked = [
        (scene, question)
        for scene in held.scenes
        for question in draw_questions(scene, rng, num_questions=3)
    ]
    return [
        (scene, question, candidate(scene, question, rng))
        for scene, question in asked
        for _ in range(num_answers)
    ]


def drawn(held: pool.Pool, num_answers: int, seed: int) -> list[tuple[Scene, Question, str]]:
    """Return answers that the toy policy samples to three questions a clip."""
    return sample_answers(checkpoint(POLICY), held, num_answers=num_answers, seed=seed)


SOURCES = {"policy": drawn, "writer": written}


def counting(tokens: Counter[str]) -> Callable[[JudgeSettings], backends.Judge]:
    """Return the local backend, which adds the calls and prompt tokens of each judge to
    `tokens`.
    """
    local = backends.BACKENDS["local"]

    def open_counted(settings: JudgeSettings) -> backends.Judge:
        judge = local(settings)
        tok = AutoTokenizer.from_pretrained(checkpoint(settings.model.removeprefix("toy:")))

        def ask(scorer: Any, prompts: Any, keep: Any) -> None:
            prompts = list(prompts)
            for messages in prompts:
                chat = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                tokens["tokens"] += len(tok(chat, add_special_tokens=False).input_ids)
            tokens["calls"] += len(prompts)
            judge.ask(scorer, prompts, keep)

        return replace(judge, ask=ask)

    return open_counted


def pair_accuracy(
    items: Sequence[Item], gold: Mapping[str, int], rows: Mapping[str, Judgment]
) -> dict[str, Any]:
    """Return pair accuracy with its interval, the number of pairs, and the share of equal scores
    among them.
    """
    groups: dict[str, list[str]] = {}
    clips = {sample.id: str(sample.video) for sample, _ in items}
    for sample, said in items:
        groups.setdefault(sample.id, []).append(said.id)
    right, owners, ties = [], [], 0
    for sample_id, ids in groups.items():
        for one, other in combinations(ids, 2):
            if gold[one] == gold[other]:
                continue
            high, low = (one, other) if gold[one] > gold[other] else (other, one)
            first, second = rows[high].score, rows[low].score
            tied = first is not None and first == second
            ties += tied
            right.append(
                0.0 if first is None or second is None else 0.5 if tied else float(first > second)
            )
            owners.append(clips[sample_id])
    found = bootstrap_ci(right, clusters=owners, resamples=2000, seed=0)
    return {
        "pair_accuracy": found.value,
        "ci": found.interval,
        "pairs": len(right),
        "ties": ties / len(right),
    }


def main() -> None:
    """Print the table; with --json write it too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--answers-of", choices=SOURCES, default="policy")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--answers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", default="toy:pairwise_judge")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    items, gold = gather(given.answers_of, given.clips, given.answers, given.seed)
    texts = len({(sample.id, said.text) for sample, said in items})
    print(
        f"{len(items)} answers ({texts} different) to {len({sample.id for sample, _ in items})} "
        f"questions on "
        f"{given.clips} held-out clips, by the {given.answers_of}; judge {given.judge}"
    )
    print(
        f"{'mode':30} {'pair accuracy (95 %)':24} {'equal':>6} {'unscored':>8} {'calls':>6} "
        f"{'tokens':>7}   per text"
    )
    tokens: Counter[str] = Counter()
    backends.BACKENDS["local"] = counting(tokens)
    table = {}
    for name, (scorer, changes) in modes(given.judge).items():
        settings = JudgeSettings(
            **{
                "backend": "local",
                "model": given.judge,
                "device": "cpu",
                "max_tokens": 12,
                "batch_size": 64,
            }
            | changes
        )
        tokens.clear()
        with tempfile.TemporaryDirectory() as folder, RunStore(Path(folder)) as store:
            rows, counts = judge_candidates(settings, load_scorer(scorer), items, store)
        row = pair_accuracy(items, gold, rows)
        row |= {
            "unscored": sum(one.score is None for one in rows.values()),
            "calls": tokens["calls"] / texts,
            "tokens": tokens["tokens"] / texts,
            "escalated": counts["escalated"],
        }
        table[name] = row
        low, high = row["ci"]
        print(
            f"{name:30} {row['pair_accuracy']:.3f} ({low:.3f} to {high:.3f}){'':3} "
            f"{row['ties']:6.3f} "
            f"{row['unscored']:8d} {row['calls']:6.2f} {row['tokens']:7.1f}"
            + (f"   {counts['escalated']} escalated" if "cascade" in name else ""),
            flush=True,
        )
    print(f"pairs of different gold grade: {next(iter(table.values()))['pairs']}")
    if given.json:
        given.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
