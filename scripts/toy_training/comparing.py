"""Teach a trained judge two more scorers: which of two answers is better, and how much an answer covers.

The old scorers stay in the mix, so that the judge keeps what it knows.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from dpo_video.judges.scorer import Scorer, load_scorer, render
from dpo_video.toy.gold import grade
from dpo_video.toy.questions import all_questions, ask, caption
from dpo_video.toy.scene import Scene, draw_scene
from toy_training import judge_data
from toy_training.judge_training import hidden_states
from toy_training.packing import Row, pack
from toy_training.sloppy import noisy_answer

LIKE = {
    "The caption holds everything known": "The caption holds everything known",
    'Lines behind ">"': 'Lines behind ">"',
    "The better answer": "A: every statement",
    "A: it gives": "A: every statement",
}
"""How new fixed lines begin, and how the known line begins whose embedding they start from."""


@dataclass(frozen=True)
class Mix:
    """Rows of each scorer in a step, and judged branches in a row."""

    steps: int = 900
    score: int = 2
    support: int = 2
    coverage: int = 1
    pairwise: int = 5
    judged: int = 8
    pairs: int = 6
    learning_rate: float = 1e-3
    warmup: int = 30
    natural: float = 0.55


def learn_lines(model: Qwen2ForCausalLM, tok: PreTrainedTokenizerFast) -> None:
    """Make each fixed line of the new scorers one token, as those of the old ones are."""
    prompts = [load_scorer(name).prompt for name in ("caption_pairwise", "caption_coverage")]
    known = tok.get_added_vocab()
    lines = sorted({line for prompt in prompts for line in prompt.splitlines() if len(line) > 40} - set(known))
    tok.add_tokens(lines)
    size = model.config.vocab_size
    if len(tok) > size:
        model.resize_token_embeddings(len(tok), pad_to_multiple_of=64)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for line in lines:
            start = next(like for new, like in LIKE.items() if line.startswith(new))
            same = [token for text, token in known.items() if text.startswith(start)]
            table[tok.convert_tokens_to_ids(line)] = table[same].mean(0) + 0.02 * torch.randn(table.shape[1])


def comparison_row(
    tok: PreTrainedTokenizerFast, scene: Scene, rng: random.Random, *, scorer: Scorer, pairs: int, natural: float
) -> Row:
    """Return one caption with pairs of answers, each with the label of the better gold score; C where they are equal.

    Two of three equal pairs are drawn again: answers are equal more often than not.
    """
    text, every = caption(scene, rng), all_questions(scene)
    prefix, branches = "", []
    while len(branches) < pairs:
        own = rng.random() < natural
        question = rng.choice(ask(scene, rng, num_questions=3)) if own else rng.choice(every)

        def answer(own: bool = own, question=question) -> str:
            if own and rng.random() < 0.75:
                return noisy_answer(scene, question, rng)
            return judge_data.altered(scene, question, rng) if own else judge_data.candidate(scene, question, rng)

        both = [answer(), answer()]
        first, second = (grade(scene, question, one).score for one in both)
        if first == second and rng.random() < 0.67:
            continue
        label = "C" if first == second else "A" if first > second else "B"
        messages = render(scorer, caption=text, question=question.prompt, answer=both[0], other=both[1])
        chat = str(tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        at = chat.index(judge_data.CUT)
        prefix = chat[:at]
        branches.append((chat[at:], scorer.verdict.replace("{label}", label)))
    return judge_data.to_row(tok, prefix, branches)


def train(
    model: Qwen2ForCausalLM, tok: PreTrainedTokenizerFast, mix: Mix, *, seed: int, seconds: float = math.inf
) -> int:
    """Train in place on pretraining scenes and return the steps done.

    The learning rate falls with the steps, or with the seconds where those run out first: a slow machine then ends a
    shorter training, and does not break one off.
    """
    rng = random.Random(f"compare pairs {seed}")
    torch.manual_seed(seed)
    scorers = {name: load_scorer(f"caption_{name}") for name in ("score", "support", "coverage", "pairwise")}
    optimiser = torch.optim.AdamW(model.parameters(), lr=mix.learning_rate, weight_decay=0.01)
    model.train()
    begun, mean = time.time(), dict.fromkeys(scorers, 0.0)
    right_mean = dict.fromkeys(scorers, 0.5)
    for step in range(mix.steps):
        spent = (time.time() - begun) / seconds
        if spent >= 1:
            return step
        for group in optimiser.param_groups:
            group["lr"] = mix.learning_rate * _schedule(max(step / mix.steps, spent), step, mix)
        rows, owner = [], []
        for name, scorer in scorers.items():
            for _ in range({"score": mix.score, "support": mix.support, "coverage": mix.coverage,
                            "pairwise": mix.pairwise}[name]):
                scene = draw_scene(rng, part="pretrain")
                if name == "pairwise":
                    row = comparison_row(tok, scene, rng, scorer=scorer, pairs=mix.pairs, natural=mix.natural)
                else:
                    row = judge_data.draw_row(tok, scene, rng, scorer=scorer, counts=(mix.judged, 0),
                                              natural=mix.natural)[0]
                rows.append(row)
                owner.append(name)
        batch = pack(rows, pad=tok.pad_token_id)
        states, _ = hidden_states(model, batch)
        targets = batch.labels[:, 1:]
        said = targets != -100
        logits = model.lm_head(states[-1][:, :-1][said])
        losses = nn.functional.cross_entropy(logits, targets[said], reduction="none")
        # the label is the token before the end of turn
        is_label = (batch.labels[:, 2:] == tok.eos_token_id) & (batch.labels[:, 1:-1] != -100)
        is_label = nn.functional.pad(is_label, (0, 1))[said]
        which = torch.tensor([list(scorers).index(name) for name in owner])[:, None].expand_as(said)[said]
        loss = losses[is_label].mean() + 0.05 * losses[~is_label].mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        hits = (logits.argmax(-1) == targets[said]).float()
        for k, name in enumerate(scorers):
            mine = is_label & (which == k)
            rate = 0.97 if step > 20 else 0.8
            mean[name] = rate * mean[name] + (1 - rate) * float(losses[mine].detach().mean())
            right_mean[name] = rate * right_mean[name] + (1 - rate) * float(hits[mine].mean())
        if step % 25 == 24:
            shown = " ".join(f"{name} {mean[name]:.3f}/{right_mean[name]:.3f}" for name in scorers)
            print(f"pairs {step + 1}: {shown} {time.time() - begun:.0f} s", flush=True)
    return mix.steps


def _schedule(done: float, step: int, mix: Mix) -> float:
    return min((step + 1) / mix.warmup, 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
