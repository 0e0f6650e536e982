"""The local judge: label probabilities of one forward, written verdicts, the same alone and in any
batch.
"""

import io
import json
import shutil

import pytest
import torch
from judge_server import make_items
from safetensors.torch import load_file, save_file
from tiny_judge import (
    CAPTION,
    SCORES,
    SHORT_SCORER,
    random_judge,
    tiny_tokenizer,
    trained_judge,
    write_scorer,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from dpo_video.core.errors import UserError
from dpo_video.judge.ask import KIND, ask_prompts
from dpo_video.judge.backends.local_prompts import label_tokens
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.prompt import render, user_turn
from dpo_video.judge.reply_keys import key_maker
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.verdict import read_reply
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore

TEXTS = [
    "a dog",
    "two cats and a bird on a boat " * 6,
    "no",
    "it is\na cake " * 20,
    "",
    "a bird sits " * 3,
    "x y z",
]


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    return random_judge(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def trained_model(tmp_path_factory):
    return trained_judge(tmp_path_factory.mktemp("trained"))


def _settings(model, **changes):
    return JudgeSettings(
        backend="local", model=str(model), device="cpu", dtype="float32", **changes
    )


def _prompts(scorer, texts=TEXTS):
    return [
        render(
            scorer, caption="A dog jumps.", question="What jumps?", answer=text, reference="a dog"
        )
        for text in texts
    ]


def _ask(settings, scorer, prompts):
    replies = {}
    with open_judge(settings) as judge:
        judge.ask(scorer, prompts, replies.__setitem__)
    assert set(replies) == set(range(len(prompts)))
    return [replies[index] for index in range(len(prompts))]


@pytest.mark.parametrize("name", ["caption_score", "caption_support"])
def test_label_probabilities_equal_those_of_the_whole_text_forward(random_model, name):
    """The slow way: one prompt at a time, no padding, logits of every position, softmax over the
    vocabulary.
    """
    scorer = load_scorer(name)
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32).eval()
    prompts = _prompts(scorer)
    for messages, reply in zip(
        prompts, _ask(_settings(random_model, batch_size=3), scorer, prompts), strict=True
    ):
        text = (
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            + scorer.reply_prefix
        )
        for label in scorer.labels:
            *before, token = tokenizer(text + label, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([before])).logits[0, -1]
            assert reply.log_probs[label] == pytest.approx(
                float(logits.log_softmax(-1)[token]), abs=1e-5
            )


@pytest.mark.parametrize("batch_size", [2, 7])
def test_a_batch_changes_no_probability_and_no_order(random_model, batch_size):
    scorer = load_scorer("caption_score")
    alone = _ask(_settings(random_model, batch_size=1), scorer, _prompts(scorer))
    together = _ask(_settings(random_model, batch_size=batch_size), scorer, _prompts(scorer))
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    for one, other in zip(alone, together, strict=True):
        assert other.log_probs == pytest.approx(one.log_probs, abs=1e-5)
    assert len({round(reply.log_probs["3"], 4) for reply in alone}) == len(TEXTS), (
        "every prompt has its own"
    )


def test_a_random_judge_is_not_answering_and_gives_no_score(random_model):
    scorer = load_scorer("caption_score")
    reply = _ask(_settings(random_model), scorer, _prompts(scorer, ["a dog"]))[0]
    verdict, _ = read_reply(_settings(random_model), scorer, reply)
    assert verdict.score is None
    assert verdict.reason.startswith("little weight on the labels: their probabilities sum to 0.0")


def _trained_prompts(scorer):
    return [
        render(scorer, caption=CAPTION, question="what plays?", answer=f"it is a {word}")
        for word in SCORES
    ]


def test_a_trained_judge_scores_by_its_rule_from_labels_and_in_writing(trained_model, tmp_path):
    scorer = load_scorer(str(write_scorer(tmp_path)))
    for settings in (
        _settings(trained_model),
        _settings(trained_model, score_from="verdict", max_tokens=12),
    ):
        replies = _ask(settings, scorer, _trained_prompts(scorer))
        scores = [read_reply(settings, scorer, reply)[0].score for reply in replies]
        assert scores == pytest.approx(list(SCORES.values()), abs=0.15)
        assert [reply.text for reply in replies] == [f"Score: {score}" for score in SCORES.values()]
        assert {reply.finish for reply in replies} == {"stop"}


def test_a_reply_cut_at_max_tokens_is_unscored(trained_model, tmp_path):
    scorer = load_scorer(str(write_scorer(tmp_path)))
    settings = _settings(trained_model, score_from="verdict", max_tokens=2)
    reply = _ask(settings, scorer, _trained_prompts(scorer)[:1])[0]
    assert reply.finish == "length"
    assert read_reply(settings, scorer, reply)[0].reason.startswith("cut off")


def test_sampled_verdicts_do_not_depend_on_the_batch(random_model):
    scorer = load_scorer("caption_score")
    settings = {"score_from": "verdict", "max_tokens": 8, "temperature": 1.5}
    alone = _ask(_settings(random_model, batch_size=1, **settings), scorer, _prompts(scorer))
    together = _ask(_settings(random_model, batch_size=4, **settings), scorer, _prompts(scorer))
    assert together == alone
    greedy = _ask(
        _settings(random_model, score_from="verdict", max_tokens=8), scorer, _prompts(scorer)
    )
    assert greedy != alone
    again = _settings(random_model, repeat=1, **settings)
    assert _ask(again, scorer, _prompts(scorer)) == _ask(again, scorer, _prompts(scorer)) != alone


def test_labels_that_are_not_single_tokens_are_named(tmp_path):
    tokenizer = tiny_tokenizer()
    text = SHORT_SCORER.replace('"5": 5', '"somewhat": 5')
    scorer = load_scorer(str(write_scorer(tmp_path, text)))
    with pytest.raises(
        UserError, match=r"label 'somewhat' is not one token behind 'Score: '.*score_from=verdict"
    ):
        label_tokens(tokenizer, scorer, "tiny")
    good = label_tokens(tokenizer, load_scorer("caption_support"), "tiny")
    assert len(set(good.tokens.values())) == 3


def test_a_prompt_over_the_context_and_one_with_control_tokens_fail_alone(random_model):
    """The tiny judge takes 1024 tokens. Prompts break what looks like a control token; one that
    gets through all the same is refused.
    """
    scorer = load_scorer("caption_score")
    prompts = _prompts(scorer, ["a dog", "cat " * 1200])
    prompts += [user_turn("A dog <|im_end|>")]
    replies = _ask(_settings(random_model), scorer, prompts)
    assert [reply.status for reply in replies] == ["answered", "refused", "refused"]
    assert replies[1].reason.startswith("context length: prompt and reply need ")
    assert replies[2].reason.startswith("control token: the text holds '<|im_end|>'")


def test_judgments_are_stored_and_the_model_is_known_by_its_content(trained_model, tmp_path):
    """A second run asks nothing: with the model's weights cut short it would fail to load."""
    scorer = load_scorer(str(write_scorer(tmp_path)))
    items = make_items(3, 2)
    with RunStore(tmp_path / "run") as store:
        first = judge_candidates(_settings(trained_model), scorer, items, store).judgments
        again = judge_candidates(
            _settings(trained_model, batch_size=1), scorer, items, store
        ).judgments
        with open_judge(_settings(trained_model)) as judge:
            assert (
                judge_candidates(
                    _settings(trained_model), scorer, items, store, judge=judge
                ).judgments
                == first
            )
    assert again == first
    assert list(first) == [candidate.id for _, candidate in items]
    assert all(row.judge.startswith(f"{trained_model}@") for row in first.values())


def test_a_judge_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(UserError, match=r"no judge model '.*nosuch': neither a folder here nor"),
        open_judge(_settings(tmp_path / "nosuch")),
    ):
        pass
    with pytest.raises(UserError, match=r"cannot load judge\.model"):
        _ask(
            _settings(tmp_path),
            load_scorer("caption_score"),
            _prompts(load_scorer("caption_score"), ["a"]),
        )


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    folder = random_judge(tmp_path / "base")
    for file in folder.glob("chat_template*"):
        file.unlink()
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="has no chat template"):
        _ask(
            _settings(folder),
            load_scorer("caption_score"),
            _prompts(load_scorer("caption_score"), ["a"]),
        )


def test_verdicts_sampled_by_an_earlier_version_are_sampled_anew_and_that_is_said(
    random_model, tmp_path, capsys
):
    """Their noise was drawn by another formula, so their keys differ; greedy ones keep theirs."""
    scorer = load_scorer("caption_score")
    prompts = _prompts(scorer)
    for temperature, num_anew in ((0.0, 0), (1.5, len(prompts))):
        settings = _settings(
            random_model, score_from="verdict", max_tokens=4, temperature=temperature
        )
        with RunStore(tmp_path / str(temperature)) as store, open_judge(settings) as judge:
            earlier_key = key_maker(settings, scorer, judge, noise=None)
            for messages in prompts:
                store.put(KIND, earlier_key(messages), {"status": "answered", "text": "Score: 1"})
            replies, counts = ask_prompts(settings, scorer, prompts, store, judge=judge)
        assert counts["asked"] == num_anew
        assert (f"note: {num_anew} verdicts" in capsys.readouterr().err) == bool(num_anew)
        assert [reply.text == "Score: 1" for reply in replies] == [not num_anew] * len(prompts)


def test_a_judge_without_tokenizer_or_with_half_its_weights_is_refused_in_one_line(
    random_model, tmp_path
):
    scorer = load_scorer("caption_score")
    folder = shutil.copytree(random_model, tmp_path / "judge")
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cannot load judge.model .*damaged or cut short") as cut:
        _ask(_settings(folder), scorer, _prompts(scorer))
    lost = "model.layers.0.mlp.up_proj.weight"
    whole = load_file(next(random_model.glob("*.safetensors")))
    save_file({name: whole[name] for name in whole if name != lost}, weights, {"format": "pt"})
    with pytest.raises(UserError, match=rf"judge.model .*lacks 1 weights .*'{lost}'") as lacks:
        _ask(_settings(folder), scorer, _prompts(scorer))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match=r"judge.model .*no tokenizer in it") as none:
        _ask(_settings(folder), scorer, _prompts(scorer))
    assert "\n" not in str(cut.value) + str(lacks.value) + str(none.value)


def test_code_in_a_judges_folder_is_not_run_and_pickled_weights_are_not_read(
    random_model, tmp_path, monkeypatch
):
    """`yes | dpo-video judge` answers yes to whoever asks on the terminal: nobody may."""
    folder = shutil.copytree(random_model, tmp_path / "judge")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    scorer = load_scorer("caption_score")
    with pytest.raises(UserError, match=r"cannot load judge.model .*custom code"):
        _ask(_settings(folder), scorer, _prompts(scorer))
    assert not (tmp_path / "ran").exists()
    pickled = shutil.copytree(random_model, tmp_path / "pickled")
    for path in pickled.glob("*.safetensors"):
        path.rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"judge.model .*a pickle \(pytorch_model.bin\)"):
        _ask(_settings(pickled), scorer, _prompts(scorer))
