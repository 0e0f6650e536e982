"""Keys of replies: the quick way gives the hash of the obvious one, and a plain loop finds the same
ones missing.
"""

import re
from array import array
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_runs import exported, write_run
from judge_server import judge_server, make_items, steady

from dpo_video.core.names import shipped_names
from dpo_video.core.records import Candidate, Sample
from dpo_video.data.answer_filters import AnswerPlan
from dpo_video.judge.ask import KIND
from dpo_video.judge.prompt import NO_REFERENCE, break_control_tokens, quote_answer, render
from dpo_video.judge.reply_keys import NO_DIGEST, Keys, answer_keys, key_maker
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge
from dpo_video.judge.types import Judge, mode_of
from dpo_video.recipe import JudgeSettings
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run
from dpo_video.store import OverlayStore, RunStore, row_key

SCORERS = {name: load_scorer(name) for name in shipped_names("scorers")}
BY_ANSWER = [name for name, scorer in SCORERS.items() if scorer.mode in ("labels", "verdict")]
SHAPES = [
    "{answer}\n{question} {answer} {caption}\n\n",
    "{question}{caption}{answer}",
    '{question} "{answer}"\n\n',
]
"""Prompts that no shipped scorer has: the answer first, last, and twice."""
odd_text = st.text(
    st.sampled_from(list("ab{}\"'\\<|>[]/ \n\r\t\0\u2028\xe9\U0001f415\ud800\udc00"))
    | st.characters(),
    max_size=40,
) | st.sampled_from(["{caption}", "{answer}", "\0mark", "", "<|im_end|>", "[INST]"])


patiently = settings(max_examples=50)
OPENED = Judge(name="m", identity={"model": "m", "z": '\xe9"{answer}'}, ask=lambda *_: None)


def _obvious_prompt(scorer, *, caption, question, answer, other, reference):
    """One pass over the whole prompt, as a reader of the scorer file would fill it."""
    values = {
        "caption": break_control_tokens(caption.strip()),
        "question": break_control_tokens(question.strip()),
        "answer_b": quote_answer(other),
        "reference": break_control_tokens(reference.strip()) if reference else NO_REFERENCE,
        "answer": quote_answer(answer),
        "answer_a": quote_answer(answer),
        "claim": quote_answer(answer),
    }
    return re.sub(r"\{([a-z_]+)\}", lambda match: values[match[1]], scorer.prompt).rstrip("\n")


def _obvious_fence(text):
    for pattern in (
        r"(<)(?=[^\s<=\d])",
        r"(<)(?=0x)",
        r"(\[)(?=/?[a-z]?[A-Z_]+\])",
        r"(\[)(?=/?[a-z]?[A-Z_]*_\d+\])",
        r"(\[)(?=\|)",
        r"(\])(?=~)",
        r"(\[)(?=e~\[)",
        r"(>>)(?=[A-Z_]+<<)",
        r"(\uff1c)(?=[|\uff5c])",
        r"(\u25c1)(?=\S)",
    ):
        text = re.sub(pattern, r"\1 ", text)
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])


@pytest.mark.parametrize(
    "scorer",
    [
        *SCORERS.values(),
        *(SCORERS["hound_quality"].model_copy(update={"prompt": shape}) for shape in SHAPES),
    ],
    ids=lambda one: one.name,
)
@patiently
@given(texts=st.tuples(odd_text, odd_text, odd_text, odd_text, odd_text))
def test_a_prompt_is_filled_as_in_one_pass(scorer, texts):
    caption, question, answer, other, reference = texts
    given_texts = {
        "caption": caption,
        "question": question,
        "answer": answer,
        "other": other,
        "reference": reference or "r",
    }
    assert render(scorer, **given_texts) == [
        {"role": "user", "content": _obvious_prompt(scorer, **given_texts)}
    ]
    assert quote_answer(answer) == _obvious_fence(answer)


@pytest.mark.parametrize("mode", ["scorer", "verdict"])
@pytest.mark.parametrize(
    "scorer",
    [
        *(SCORERS[name] for name in BY_ANSWER),
        *(SCORERS["hound_quality"].model_copy(update={"prompt": shape}) for shape in SHAPES),
    ],
    ids=lambda one: one.name,
)
@patiently
@given(
    caption=odd_text,
    question=odd_text,
    reference=odd_text,
    answers=st.lists(odd_text, min_size=1, max_size=4),
)
def test_the_key_of_an_answer_is_that_of_its_whole_prompt(
    scorer, mode, caption, question, reference, answers
):
    asked = (
        JudgeSettings(backend="openai", model="m", score_from=mode, temperature=0.5, repeat=2),
        scorer,
        OPENED,
    )
    sample = Sample(id="s", video="v", prompt=question, caption=caption, answer=reference)
    key_of = answer_keys(*asked)(sample)
    if scorer.needs_reference and not reference:
        assert key_of is None
        return
    how = (
        {"temperature": 0.5}
        if mode_of(*asked[:2]) == "verdict"
        else {"labels": list(scorer.labels), "prefix": scorer.reply_prefix}
    )
    for answer in answers:
        messages = render(
            scorer, caption=caption, question=question, answer=answer, reference=reference
        )
        expected = row_key(
            backend="openai",
            judge=OPENED.identity,
            messages=messages,
            max_tokens=512,
            repeat=2,
            **how,
        )
        assert key_of(answer).hex() == expected == key_maker(*asked)(messages)


def _table(digests):
    """Return the keys of one answer each, as a file of candidates makes them; None: it cannot be
    judged.
    """
    keys, screening = (
        Keys(keys_of=lambda sample: sample.answer and (lambda answer: bytes.fromhex(answer))),
        AnswerPlan(),
    )
    for number, digest in enumerate(digests):
        sample = Sample(id=f"s{number}", video="v", prompt="q", caption="c", answer=digest and "r")
        candidate = Candidate(
            id=f"s{number}#0",
            sample_id=sample.id,
            text=(digest or b"").hex(),
            model="m",
            settings="h",
            seed=0,
        )
        screening.judged_as.append(number)
        keys.add(sample, [candidate], screening)
    return keys


@pytest.mark.parametrize("compared", [3, 50_000])
def test_the_missing_ones_are_those_that_a_plain_loop_finds(monkeypatch, compared):
    """Many digests are equal, many end in zero bytes or begin with them, some are stored, some have
    no key.
    """
    monkeypatch.setattr("dpo_video.judge.reply_keys.COMPARED", compared)
    random = np.random.default_rng(0)
    kinds = [bytes([a]) + bytes(15) + bytes([b]) + bytes(15) for a in range(6) for b in range(6)][
        1:
    ]
    kinds += [bytes(31) + bytes([a]) for a in range(1, 5)]
    for _ in range(20):
        digests = [
            kinds[k] if k < len(kinds) else None for k in random.integers(0, len(kinds) + 4, 60)
        ]
        stored = {
            kinds[k].hex() for k in random.integers(0, len(kinds), int(random.integers(0, 30)))
        } | {"ff" * 32}
        order = array("i", random.permutation(60).tolist())
        keys = _table(digests)
        missing = keys.missing(order, iter(stored))
        assert [number for number in order if number in set(missing)] == list(missing)
        assert Counter(digests[number] for number in missing) == {
            digest: 1 for digest in digests if digest is not None and digest.hex() not in stored
        }
        different = {digest for digest in digests if digest is not None}
        assert (keys.num_judged, keys.num_different) == (
            sum(d is not None for d in digests),
            len(different),
        )
        assert Counter(
            digests[number] for number in range(60) if keys.is_first(number)
        ) == dict.fromkeys(different, 1)
        assert [keys.of(number) if keys.has(number) else None for number in range(60)] == [
            digest and digest.hex() for digest in digests
        ]


def test_nothing_stored_and_nothing_to_ask_about():
    keys = _table([None, b"a" * 32])
    assert list(keys.missing(array("i", [1, 0]), [])) == [1]
    assert list(_table([None]).missing(array("i", [0]), ["ff" * 32])) == []
    keys.share(array("i", [1, 1]))
    assert keys.of(0) == keys.of(1) == "61" * 32 and bytes(32) == NO_DIGEST


@pytest.mark.parametrize("kind", ["sqlite", "segments"])
def test_stored_keys_are_those_of_one_kind_without_some_statuses(tmp_path, monkeypatch, kind):
    """The reply of #2 holds the word; rows that were replaced, that wait, and that are set aside
    count as they are.
    """
    monkeypatch.setattr("dpo_video.store.database.LONG_PAGE", 2)
    rows = {
        "k0": {"status": "answered"},
        "k1": {"status": "failed"},
        "k2": {"status": "answered", "text": '"failed"'},
        "k3": {"status": "refused"},
        "k4": {"n": 1},
        "k5": {"status": "answered"},
        "k6": {"status": "failed"},
    }
    with RunStore(tmp_path, kind=kind) as store:
        assert list(store.keys(KIND)) == []
        for key, row in rows.items():
            store.put(KIND, key, row)
            store.put("other", f"o{key}", {"status": "answered"})
        store.flush()
        store.put(KIND, "k5", {"status": "failed"})
        store.put(KIND, "k6", {"status": "answered"})
        for without, expected in (
            (("failed",), "k0 k2 k3 k4 k6"),
            (("failed", "refused"), "k0 k2 k4 k6"),
            ((), "k0 k1 k2 k3 k4 k5 k6"),
        ):
            assert sorted(store.keys(KIND, without=without)) == expected.split()
            assert store.known(KIND, [*rows, "new"], without=without) == set(expected.split())
        overlay = OverlayStore(store)
        overlay.put(KIND, "k0", {"status": "failed"})
        overlay.put(KIND, "k7", {"status": "answered"})
        overlay.put("other", "k8", {"status": "answered"})
        assert sorted(overlay.keys(KIND)) == ["k2", "k3", "k4", "k6", "k7"]
        assert overlay.known(KIND, ["k0", "k2", "k7"]) == {"k2", "k7"}
        assert sorted(store.keys(KIND)) == ["k0", "k2", "k3", "k4", "k6"]


def test_a_run_that_goes_on_asks_only_what_is_missing_and_says_the_same(tmp_path):
    """Every third reply is lost and one is refused; a question stands twice, and its answers are
    shared.
    """
    items = make_items(10, 3)
    twin, answers = items[0][0], [candidate for sample, candidate in items if sample is items[0][0]]
    again = Sample(
        id="again", video=twin.video, prompt=twin.prompt, caption=twin.caption, answer=twin.answer
    )
    items += [
        (
            again,
            Candidate(
                id=f"again#{k}", sample_id="again", text=one.text, model="m", settings="h", seed=k
            ),
        )
        for k, one in enumerate(answers)
    ]
    with judge_server(steady) as server:
        recipe = write_run(tmp_path, items, server.url)
        with open_run(load_recipe(str(recipe), [])) as run:
            first = judge(run).counts
            prompts, rows = list(server.prompts), exported(recipe)
            stored = dict(run.store.rows(KIND))
            lost = sorted(stored)[::3]
            for key in lost:
                run.store.put(KIND, key, stored[key] | {"status": "failed", "reason": "lost"})
            run.store.put(
                KIND,
                sorted(stored)[1],
                stored[sorted(stored)[1]] | {"status": "refused", "reason": "no"},
            )
            second = judge(run).counts
        assert (first["asked"], first["answered_before"], first["same_text"]) == (30, 0, 3)
        assert (second["asked"], second["answered_before"], second["same_text"]) == (10, 20, 3)
        assert Counter(server.prompts[30:]) <= Counter(prompts) and len(server.prompts) == 40
        with open_run(load_recipe(str(recipe), ["judge.ask_refused_again=true"])) as run:
            assert judge(run).counts["asked"] == 1
    assert exported(recipe) == rows
