"""Teach a trained judge two more scorers: which of two answers is better, and how much an answer
covers.

The old scorers stay in the mix, so that the judge keeps what it knows.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.toy.gold import grade
from dpo_video.toy.questions import Question, all_questions, caption, draw_questions
from dpo_video.toy.scene import Scene, draw_scene
from toy_training import judge_data
from toy_training.agreement import label_scores
from toy_training.judge_training import hidden_states
from toy_training.packing import Packed, Row, pack
from toy_training.sloppy import noisy_answer

MINUTES = 27
"""The learning rate falls to nothing in that time, however many steps it makes."""
LIKE = {
    "The caption holds everything known": "The caption holds everything known",
    'Lines behind ">"': 'Lines behind ">"',
    "The better answer": "A: every statement",
    "A: it gives": "A: every statement",
}
"""How new fixed lines begin, and how the known line begins whose embedding they start from."""


@dataclass(frozen=True)
class Mix:
    """Rows of each scorer in a step, and what is judged in a row."""

    steps: int = 1000
    rows: Mapping[str, int] = field(
        default_factory=lambda: {
            "caption_score": 2,
            "caption_support": 2,
            "caption_coverage": 1,
            "caption_pairwise": 5,
        }
    )
    judged: int = 8
    pairs: int = 6
    learning_rate: float = 1e-3
    warmup: int = 30
    natural: float = 0.55


def learn_lines(model: Qwen2ForCausalLM, tok: PreTrainedTokenizerFast) -> None:
    """Make each fixed line of the new scorers one token, as those of the old ones are."""
    prompts = [load_scorer(name).prompt for name in ("caption_pairwise", "caption_coverage")]
    known = tok.get_added_vocab()
    lines = sorted(
        {line for prompt in prompts for line in prompt.splitlines() if len(line) > 40} - set(known)
    )
    tok.add_tokens(lines)
    size = model.config.vocab_size
    if len(tok) > size:
        model.resize_token_embeddings(len(tok), pad_to_multiple_of=64)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for line in lines:
            start = next(like for new, like in LIKE.items() if line.startswith(new))
            same = [token for text, token in known.items() if text.startswith(start)]
            table[tok.convert_tokens_to_ids(line)] = table[same].mean(0) + 0.02 * torch.randn(
                table.shape[1]
            )


def comparison_row(
    tok: PreTrainedTokenizerFast,
    scene: Scene,
    rng: random.Random,
    *,
    scorer: Scorer,
    pairs: int,
    natural: float,
) -> Row:
    """Return one caption with pairs of answers, each with the label of the better gold score; C
    where they are equal.

    Two of three equal pairs are drawn again: answers are equal more often than not.
    """
    text, every = caption(scene, rng), all_questions(scene)
    prefix, branches = "", []
    while len(branches) < pairs:
        own = rng.random() < natural
        question = (
            rng.choice(draw_questions(scene, rng, num_questions=3)) if own else rng.choice(every)
        )
        both = [_answer(scene, question, rng, own=own) for _ in range(2)]
        first, second = (grade(scene, question, one).score for one in both)
        if first == second and rng.random() < 0.67:
            continue
        label = "C" if first == second else "A" if first > second else "B"
        prefix, turn = judge_data.split_prompt(
            tok, scorer, caption=text, prompt=question.prompt, answer=both[0], other=both[1]
        )
        branches.append((turn, scorer.verdict.replace("{label}", label)))
    return judge_data.to_row(tok, prefix, branches)


def _answer(scene: Scene, question: Question, rng: random.Random, *, own: bool) -> str:
    """Return an answer as the policies err (`own`), or of any quality."""
    if own and rng.random() < 0.75:
        return noisy_answer(scene, question, rng)
    return (
        judge_data.altered(scene, question, rng)
        if own
        else judge_data.candidate(scene, question, rng)
    )


def train(
    model: Qwen2ForCausalLM,
    tok: PreTrainedTokenizerFast,
    mix: Mix,
    *,
    seed: int,
    seconds: float = math.inf,
) -> int:
    """Train in place on pretraining scenes and return the steps done.

    The learning rate falls with the steps, or with the seconds where those run out first: a slow
    machine then ends a shorter training, and does not break one off.
    """
    rng = random.Random(f"compare pairs {seed}")
    torch.manual_seed(seed)
    scorers = {name: load_scorer(name) for name in mix.rows}
    optimiser = torch.optim.AdamW(model.parameters(), lr=mix.learning_rate, weight_decay=0.01)
    model.train()
    begun, right = time.time(), dict.fromkeys(scorers, 0.5)
    for step in range(mix.steps):
        spent = (time.time() - begun) / seconds
        if spent >= 1:
            return step
        for group in optimiser.param_groups:
            group["lr"] = mix.learning_rate * _schedule(max(step / mix.steps, spent), step, mix)
        owners = [name for name, count in mix.rows.items() for _ in range(count)]
        rows = [_row(tok, scorers[name], rng, mix) for name in owners]
        loss, hits = _loss(model, pack(rows, pad=tok.pad_token_id), owners, end=tok.eos_token_id)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        right = {name: 0.97 * right[name] + 0.03 * hits[name] for name in scorers}
        if step % 25 == 24:
            shown = " ".join(f"{name} {value:.3f}" for name, value in right.items())
            print(f"pairs {step + 1}: right {shown} {time.time() - begun:.0f} s", flush=True)
    return mix.steps


def _row(tok: PreTrainedTokenizerFast, scorer: Scorer, rng: random.Random, mix: Mix) -> Row:
    scene = draw_scene(rng, part="pretrain")
    if scorer.mode == "pairwise":
        return comparison_row(tok, scene, rng, scorer=scorer, pairs=mix.pairs, natural=mix.natural)
    return judge_data.draw_row(
        tok, scene, rng, scorer=scorer, counts=(mix.judged, 0), natural=mix.natural
    )[0]


def _loss(
    model: Qwen2ForCausalLM, batch: Packed, owners: Sequence[str], *, end: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of the labels, a little of the words around them in it, and the share right
    by scorer.
    """
    states, _ = hidden_states(model, batch)
    targets = batch.labels[:, 1:]
    said = targets != -100
    logits = model.lm_head(states[-1][:, :-1][said])
    losses = nn.functional.cross_entropy(logits, targets[said], reduction="none")
    before_end = (batch.labels[:, 2:] == end) & (batch.labels[:, 1:-1] != -100)
    is_label = nn.functional.pad(before_end, (0, 1))[said]
    right = (logits.argmax(-1) == targets[said]).float()
    row = torch.arange(len(owners))[:, None].expand_as(said)[said]
    hits = {
        name: float(
            right[
                is_label
                & torch.isin(row, torch.tensor([k for k, own in enumerate(owners) if own == name]))
            ].mean()
        )
        for name in dict.fromkeys(owners)
    }
    return losses[is_label].mean() + 0.05 * losses[~is_label].mean(), hits


def _schedule(done: float, step: int, mix: Mix) -> float:
    return min((step + 1) / mix.warmup, 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))


def comparing_agreement(
    model: Qwen2ForCausalLM,
    tok: PreTrainedTokenizerFast,
    items: Sequence[tuple[Scene, Question, str]],
) -> dict[str, float]:
    """Return, of pairs of answers to one question with different gold scores, how often the better
    one is preferred, both orders averaged, and how often the two orders prefer the same answer."""
    scorer, rng = load_scorer("caption_pairwise"), random.Random(0)
    groups: dict[tuple[int, str], list[tuple[Scene, Question, str]]] = {}
    for item in items:
        groups.setdefault((id(item[0]), item[1].prompt), []).append(item)
    rows = [
        (one[0], one[1], one[2], other[2])
        for group in groups.values()
        for one, other in combinations(group, 2)
        if grade(*one).score != grade(*other).score
    ]
    captions = {id(scene): caption(scene, rng) for scene, *_ in rows}
    shown = [
        (captions[id(scene)], question.prompt, first, second)
        for scene, question, first, second in rows
    ]
    ahead = label_scores(model, tok, scorer, shown)
    behind = label_scores(
        model, tok, scorer, [(told, asked, second, first) for told, asked, first, second in shown]
    )
    better = [grade(scene, q, a).score > grade(scene, q, b).score for scene, q, a, b in rows]
    right = [
        ((x + 1 - y) / 2 > 0.5) == good for x, y, good in zip(ahead, behind, better, strict=True)
    ]
    same = [(x - 0.5) * (0.5 - y) > 0 for x, y in zip(ahead, behind, strict=True)]
    return {
        "caption_pairwise": round(sum(right) / len(right), 4),
        "orders_agree": round(sum(same) / len(same), 4),
        "pairs": len(right),
    }
