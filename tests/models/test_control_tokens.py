"""Control tokens of a checkpoint: from its files before it is loaded, and from its tokenizer."""

import json

import pytest
from policies import each_kind, policy, tiny_folder

from dpo_video.core.errors import UserError
from dpo_video.models.control_tokens import checkpoint_tokens, recipe_tokens
from dpo_video.models.prompts import answer_ids
from dpo_video.recipe import ModelSettings, Recipe


@each_kind
def test_the_files_of_a_checkpoint_tell_the_tokens_that_its_tokenizer_has(kind):
    model = policy(kind)
    from_files = checkpoint_tokens(ModelSettings(name=str(tiny_folder(kind))))
    assert from_files == model.control_tokens
    assert model.processor.tokenizer.eos_token in from_files.ends


@each_kind
def test_an_answer_that_closes_with_the_end_token_is_the_answer(kind):
    model = policy(kind)
    end = model.processor.tokenizer.eos_token
    assert answer_ids(model, f"a red square{end}\n") == answer_ids(model, "a red square")
    with pytest.raises(UserError, match="a control token of"):
        answer_ids(model, f"{end} a red square")


def test_tokens_are_read_from_the_older_files_of_a_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "eos_token": {"content": "</s>"},
                "added_tokens_decoder": {
                    "2": {"content": "</s>", "special": True},
                    "7": {"content": "<end_of_utterance>", "special": True},
                    "9": {"content": "<tool_call>", "special": False},
                },
            }
        )
    )
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"unk_token": "<unk>"}))
    tokens = checkpoint_tokens(ModelSettings(name=str(tmp_path)))
    assert tokens.tokens == {"</s>", "<end_of_utterance>", "<unk>"}
    assert tokens.ends == {"</s>", "<end_of_utterance>"}


def test_a_checkpoint_that_is_not_on_this_disk_has_none_yet():
    assert checkpoint_tokens(ModelSettings(name="owner/not-here")).tokens == frozenset()


def test_the_other_policies_that_are_asked_count_too(tmp_path):
    for name, token in (("a", "<|im_end|>"), ("b", "</s>")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        config = json.dumps({"eos_token": token})
        (tmp_path / name / "tokenizer_config.json").write_text(config)
    sampler = {"name": "other", "num_candidates": 1, "model": {"name": str(tmp_path / "b")}}
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "model": {"name": str(tmp_path / "a")},
            "judge": {"model": "j"},
            "data": {"samples": "s.jsonl"},
            "generate": {"mix": [sampler]},
        }
    )
    assert recipe_tokens(recipe).tokens == {"<|im_end|>", "</s>"}
