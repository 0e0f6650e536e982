"""Hold the judge against the gold grader: expected scores from label probabilities."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from dpo_video.judge.scorer import Scorer
from dpo_video.toy.gold import grade
from dpo_video.toy.questions import Question, caption
from dpo_video.toy.scene import Scene
from toy_training import judge_data


def label_scores(
    model: Qwen2ForCausalLM,
    tok: PreTrainedTokenizerFast,
    scorer: Scorer,
    items: Sequence[tuple[str, ...]],
) -> list[float]:
    """Return the expected score of (caption, prompt, answer[, other answer]) items from label
    probabilities.
    """
    values = torch.tensor(list(scorer.labels.values()))
    out: list[float] = []
    model.eval()
    for start in range(0, len(items), 32):
        prompts, labels = [], []
        for text, prompt, answer, *other in items[start : start + 32]:
            pieces = judge_data.split_prompt(
                tok, scorer, caption=text, prompt=prompt, answer=answer, other="".join(other)
            )
            whole = "".join(pieces) + scorer.reply_prefix
            # In context: in "Verdict: A" the label's token is " A".
            ids = [
                tok(whole + label, add_special_tokens=False).input_ids for label in scorer.labels
            ]
            assert all(i[:-1] == ids[0][:-1] for i in ids), "labels must be single tokens"
            prompts.append(ids[0][:-1])
            labels.append([i[-1] for i in ids])
        batch = tok.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch, logits_to_keep=1).logits[:, -1]
        chances = logits.gather(1, torch.tensor(labels)).softmax(-1)
        out.extend((chances @ values).tolist())
    return out


def agreement(
    model: Qwen2ForCausalLM,
    tok: PreTrainedTokenizerFast,
    items: Sequence[tuple[Scene, Question, str]],
) -> dict[str, float]:
    """Return the share of candidates on which the judge and the gold grader agree:
    score >= 3 against correct, and supported >= 0.5 against verdict A."""
    rng, out = random.Random(0), {}
    rows = [(caption(scene, rng), q.prompt, answer) for scene, q, answer in items]
    gold = [grade(scene, q, answer) for scene, q, answer in items]
    score, support = judge_data.scorers()
    got = label_scores(model, tok, score, rows)
    same = [(g >= score.threshold) == grade_.correct for g, grade_ in zip(got, gold, strict=True)]
    out["caption_score"] = sum(same) / len(same)
    got = label_scores(model, tok, support, rows)
    same = [
        (g >= support.threshold) == (grade_.verdict == "A")
        for g, grade_ in zip(got, gold, strict=True)
    ]
    out["caption_support"] = sum(same) / len(same)
    return {name: round(value, 4) for name, value in out.items()}
