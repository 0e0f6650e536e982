"""Train the tiny judge: a text-only causal LM that serves the two caption scorers.

It learns two things on the same captions: to answer a question from the caption (which
teaches it to look facts up) and to give a candidate the label of the gold grader.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from dpo_video.judge.scorer import Scorer
from dpo_video.toy.scene import COLOURS, MOTIONS, SHAPES, draw_scene
from toy_training import judge_data, text
from toy_training.packing import Packed, Row, pack

NUM_CLASSES = (len(SHAPES), len(COLOURS), len(MOTIONS))
MIDDLE = 2
"""The layer whose output the dense head reads: later layers can use what it holds."""


@dataclass(frozen=True)
class JudgeStage:
    """Steps and settings; early steps see scenes of one thing, then two, then any."""

    name: str
    steps: int
    rows: int
    judged: int
    lookups: int
    learning_rate: float = 1.5e-3
    warmup: int = 60
    weight_decay: float = 0.01
    one_thing_until: float = 0.0
    two_things_until: float = 0.0
    natural: float = 0.0
    """Share of candidates drawn as the policies err, on the questions that clips carry."""
    dense_weight: float = 0.0
    """Weight of naming shape, colour and motion at each sentence's end, from the middle layer."""
    look_weight: float = 0.0
    """Weight of one head looking at the sentence on the asked shape; slow, as it needs the
    attention.
    """
    match_weight: float = 0.0
    """Weight of telling, at each word of a candidate, whether the right answer has it too."""


STAGES = (
    JudgeStage("look up", 350, 20, 0, 10, one_thing_until=0.15, two_things_until=0.35),
    JudgeStage("judge", 1000, 10, 9, 3),
    JudgeStage(
        "bind", 300, 16, 0, 8, learning_rate=2e-3, natural=0.5, dense_weight=1.0, look_weight=0.3
    ),
    JudgeStage("refine", 500, 10, 9, 5, natural=0.55, dense_weight=1.0),
    JudgeStage("compare", 400, 10, 9, 3, natural=0.55, dense_weight=0.5, match_weight=1.0),
    JudgeStage("settle", 130, 10, 9, 2, 6e-4, 20, natural=0.55, match_weight=1.0),
)


def build_judge(seed: int) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    """Return a fresh judge with its tokenizer."""
    prompts = [f"{s.prompt}\n{s.reply_prefix}" for s in judge_data.scorers()]
    corpus = text.world_corpus(0) + prompts * 200 + list(judge_data.INJECTED) * 50
    # The scorers' fixed lines are one token each: a tiny judge need not read them word by word.
    lines = {line for prompt in prompts for line in prompt.splitlines() if len(line) > 40}
    tok = text.train_tokenizer(
        corpus,
        specials=text.CHATML_SPECIALS,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        vocab_size=640,
    )
    tok.add_tokens(sorted(lines))
    tok.chat_template = text.CHAT_TEMPLATE
    config = Qwen2Config(
        vocab_size=-(-len(tok) // 64) * 64,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        initializer_range=0.05,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tok.eos_token_id
    model.generation_config.pad_token_id = tok.pad_token_id
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tok.save_pretrained(folder)
        # AutoTokenizer gives a qwen2 model its own splitting of text (transformers 5.23): train on
        # that.
        return model, AutoTokenizer.from_pretrained(folder)


def train_judge(
    model: Qwen2ForCausalLM,
    tok: PreTrainedTokenizerFast,
    stage: JudgeStage,
    *,
    seed: int,
    deadline: float = math.inf,
) -> int:
    """Train in place on pretraining scenes and return the steps done before the deadline."""
    rng = random.Random(f"{stage.name} {seed}")
    scorers = judge_data.scorers()
    torch.manual_seed(seed)
    head = nn.Linear(model.config.hidden_size, sum(NUM_CLASSES))
    same = nn.Linear(model.config.hidden_size, 2)
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *head.parameters(), *same.parameters()],
        lr=stage.learning_rate,
        weight_decay=stage.weight_decay,
    )
    model.train()
    # Only the eager attention returns its weights.
    model.set_attn_implementation("eager" if stage.look_weight else "sdpa")
    begun, mean = time.time(), [0.0, 0.0, 0.0]
    for step in range(stage.steps):
        if time.time() > deadline:
            return step
        for group in optimiser.param_groups:
            group["lr"] = stage.learning_rate * _schedule(step, stage)
        drawn = [
            _draw(tok, rng, scorers, stage, done=step / stage.steps) for _ in range(stage.rows)
        ]
        batch = pack([row for row, *_ in drawn], pad=tok.pad_token_id)
        states, attention = hidden_states(model, batch, attention=bool(stage.look_weight))
        loss, seen = _loss(model, batch, states[-1], stage.judged)
        if stage.dense_weight:
            places = [judge_data.marks(tok, row, text) for row, text, *_ in drawn]
            loss = loss + stage.dense_weight * _dense(head(states[MIDDLE]), places)
            if attention is not None:
                asked = [shapes for *_, shapes, _ in drawn]
                loss = loss + stage.look_weight * _look(attention, batch, places, asked)
        if stage.match_weight:
            found = _match(same(states[MIDDLE + 1]), [found for *_, found in drawn])
            loss = loss + stage.match_weight * found
            if step % 50 == 49:
                print(f"match {float(found.detach()):.3f}", end=" ")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        mean = [0.97 * m + 0.03 * x for m, x in zip(mean, seen, strict=True)]
        if step % 50 == 49:
            took = time.time() - begun
            print(
                f"{stage.name} {step + 1}: labels {mean[0]:.4f} right {mean[1]:.3f} lookups "
                f"{mean[2]:.4f} "
                f"{took:.0f} s",
                flush=True,
            )
    return stage.steps


def _draw(
    tok: PreTrainedTokenizerFast,
    rng: random.Random,
    scorers: Sequence[Scorer],
    stage: JudgeStage,
    *,
    done: float,
) -> tuple[Row, str, list[str | None], list[tuple[int, int]]]:
    most = 1 if done < stage.one_thing_until else 2 if done < stage.two_things_until else 3
    while len((scene := draw_scene(rng, part="pretrain")).things) > most:
        pass
    scorer = rng.choices(scorers, weights=(2, 1))[0]
    return judge_data.draw_row(
        tok,
        scene,
        rng,
        scorer=scorer,
        counts=(stage.judged, stage.lookups),
        natural=stage.natural,
    )


def hidden_states(
    model: Qwen2ForCausalLM, batch: Packed, *, attention: bool = False
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
    """Return the embeddings and each layer's output, the last one normed, all (B, T, D), and
    on request the attention (B, heads, T, T) of the layer after the middle."""
    out = model.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=positions(batch),
        use_cache=False,
        output_hidden_states=True,
        output_attentions=attention,
    )
    return out.hidden_states, out.attentions[MIDDLE] if attention else None


def _match(logits: torch.Tensor, found: Sequence[Sequence[tuple[int, int]]]) -> torch.Tensor:
    flat = torch.tensor([(row, *mark) for row, marks in enumerate(found) for mark in marks])
    weight = torch.tensor([3.0, 1.0])  # most words are right
    return nn.functional.cross_entropy(logits[flat[:, 0], flat[:, 1]], flat[:, 2], weight)


def _look(
    attention: torch.Tensor,
    batch: Packed,
    places: Sequence[Sequence[tuple[int, int, int, int]]],
    asked: Sequence[Sequence[str | None]],
) -> torch.Tensor:
    """Return how far the first head is from looking at the sentence on the asked shape."""
    losses = []
    for row, shapes in enumerate(asked):
        stops = {SHAPES[shape]: place for place, shape, *_ in places[row]}
        for k, shape in enumerate(shapes):
            if shape is not None:
                said = (batch.branch[row] == k + 1) & (batch.labels[row] != -100)
                before = said.nonzero()[:, 0] - 1
                losses.append(attention[row, 0, before, stops[shape]].clamp_min(1e-6).log())
    return -torch.cat(losses).mean()


def _dense(
    logits: torch.Tensor, places: Sequence[Sequence[tuple[int, int, int, int]]]
) -> torch.Tensor:
    flat = torch.tensor([(row, *mark) for row, marks in enumerate(places) for mark in marks])
    picked = logits[flat[:, 0], flat[:, 1]].split(NUM_CLASSES, dim=-1)
    losses = [nn.functional.cross_entropy(p, flat[:, 2 + k]) for k, p in enumerate(picked)]
    return torch.stack(losses).mean()


def _loss(
    model: Qwen2ForCausalLM, batch: Packed, hidden: torch.Tensor, judged: int
) -> tuple[torch.Tensor, tuple[float, float, float]]:
    targets, branch = batch.labels[:, 1:], batch.branch[:, 1:]
    said = targets != -100
    logits = model.lm_head(hidden[:, :-1][said])
    losses = nn.functional.cross_entropy(logits, targets[said], reduction="none")
    is_label = _label_positions(batch, judged)[:, 1:][said]
    lookup = (branch > judged)[said]
    lookups = losses[lookup].mean()
    if not judged:
        return lookups, (0.0, 0.0, float(lookups.detach()))
    rest, labels = losses[~is_label & ~lookup].mean(), losses[is_label].mean()
    right = (logits.argmax(-1) == targets[said])[is_label].float().mean()
    seen = (float(labels.detach()), float(right), float(lookups.detach()))
    return labels + lookups + 0.2 * rest, seen


def _label_positions(batch: Packed, judged: int) -> torch.Tensor:
    """Return (B, T) True at the label of each judged branch: the token before its last."""
    said = (batch.labels != -100) & (batch.branch <= judged)
    after = torch.roll(said, -1, 1) & (torch.roll(batch.branch, -1, 1) == batch.branch)
    last = said & ~after
    return torch.roll(last, -1, 1)


def positions(batch: Packed) -> torch.Tensor:
    """Return position ids (B, T): a branch goes on from the end of its prefix."""
    prefix = (batch.branch == 0).sum(1, keepdim=True)
    return batch.offset + prefix * (batch.branch > 0)


def _schedule(step: int, stage: JudgeStage) -> float:
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    done = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done))
