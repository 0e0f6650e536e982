"""The local judge on trees: what prompts have in common is read once, and every score and verdict
is that of prompts read row by row.
"""

import logging
from dataclasses import replace

import pytest
import torch
from tiny_judge import random_judge, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from dpo_video.judge.backends import local
from dpo_video.judge.backends.local_forward import group_by_beginning, why_rows
from dpo_video.judge.backends.local_prompts import JudgePrompt
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import load_scorer
from dpo_video.recipe import JudgeSettings

CAPTIONS = ("A dog jumps over a boat. " * 4, "Two cats eat a cake. " * 5)
ANSWERS = ("a dog", "a cat and a bird", "no", "a dog", "it is a cake " * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_judge(tmp_path_factory.mktemp("random"))


def prompts_of(scorer):
    """Return prompts about two captions in turn, so that their order is not that of the trees."""
    return [
        render(scorer, caption=caption, question="What jumps?", answer=answer, reference="a dog")
        for answer in ANSWERS
        for caption in CAPTIONS
    ]


def ask(folder, scorer, monkeypatch, *, on_trees, **changes):
    settings = JudgeSettings(
        backend="local", model=str(folder), device="cpu", dtype="float32", batch_size=6, **changes
    )
    if not on_trees:
        monkeypatch.setattr(local, "why_rows", lambda model: "it is told so")
    replies = {}
    with open_judge(settings) as judge:
        judge.ask(scorer, prompts_of(scorer), replies.__setitem__)
    monkeypatch.undo()
    return [replies[index] for index in range(len(replies))]


def test_label_probabilities_on_trees_are_those_of_rows(folder, monkeypatch):
    scorer = load_scorer("caption_score")
    rows = ask(folder, scorer, monkeypatch, on_trees=False)
    trees = ask(folder, scorer, monkeypatch, on_trees=True)
    assert len(rows) == 10
    for row, tree in zip(rows, trees, strict=True):
        assert tree.text == row.text
        assert tree.log_probs == pytest.approx(row.log_probs, abs=1e-5)
    assert len({round(row.log_probs["3"], 4) for row in rows}) == 8, "two prompts stand twice"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_written_verdicts_on_trees_are_those_of_rows(folder, monkeypatch, temperature):
    scorer = load_scorer("caption_score")
    changes = {"score_from": "verdict", "max_tokens": 12, "temperature": temperature}
    rows = ask(folder, scorer, monkeypatch, on_trees=False, **changes)
    trees = ask(folder, scorer, monkeypatch, on_trees=True, **changes)
    assert trees == rows and len({row.text for row in rows}) > 2


def test_it_says_how_much_it_read(folder, monkeypatch, caplog):
    """Ten prompts in two batches of six and four, all alike up to the caption."""
    scorer = load_scorer("caption_score")
    caplog.set_level(logging.INFO)
    ask(folder, scorer, monkeypatch, on_trees=True)
    line = next(row.getMessage() for row in caplog.records if "tokens of prompts" in row.msg)
    read, have = (int(word.replace(",", "")) for word in line.split() if word[0].isdigit())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        + scorer.reply_prefix
        for messages in prompts_of(scorer)
    ]
    with_label = [tokenizer(text + "3", add_special_tokens=False)["input_ids"] for text in prompts]
    assert have == sum(len(ids) - 1 for ids in with_label)
    assert read < have / 2


def test_a_model_that_does_not_see_the_whole_prompt_reads_rows(tmp_path):
    tokenizer = tiny_tokenizer()
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=8,
        )
    )
    assert "sliding window" in why_rows(model.eval())


def test_a_model_whose_tree_goes_wrong_is_found_by_trying(folder):
    """Positions that are off, as in a model that counts them itself, change the logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert why_rows(model) is None
    rotary = model.model.rotary_emb
    own = rotary.forward
    rotary.forward = lambda states, positions: own(
        states, torch.arange(states.shape[1])[None].expand(positions.shape)
    )
    assert why_rows(model) == "its logits on a tree are not those of single prompts"


def prompt(*ids: int) -> JudgePrompt:
    return JudgePrompt(index=0, ids=list(ids), seed=0)


def test_prompts_are_grouped_where_a_mask_over_all_costs_more():
    """Two captions of 100 tokens behind 4 common ones, two answers of 10 tokens each: as one tree
    244 tokens and 59,536 pairs, as two trees 124 tokens and 30,752 pairs in all. The 28,784 saved
    are more than 4 tokens at 6 x 32 pairs, and less than at 6 x 2,048.
    """
    rubric, captions = [1, 2, 3, 4], ([5] * 100, [6] * 100)
    prompts = [
        prompt(*rubric, *caption, *answer)
        for answer in ([7] * 10, [8] * 10)
        for caption in captions
    ]
    assert group_by_beginning(prompts, width=32) == [[0, 2], [1, 3]]
    assert group_by_beginning(prompts, width=2048) == [[0, 2, 1, 3]]
    assert group_by_beginning(prompts[:1], width=32) == [[0]]
    equal = replace(prompts[0])
    assert group_by_beginning([prompts[0], equal], width=32) == [[0, 1]]
