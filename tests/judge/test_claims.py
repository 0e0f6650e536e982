"""Claims: answers are taken apart, every claim has its own verdict, and precision is weighed with
coverage.
"""

import json
import math
import re

import pytest
from judge_runs import summarise
from judge_server import Answer, completion, failure, judge_server, make_items
from tiny_judge import write_scorer

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import from_dict, to_json
from dpo_video.core.records import Judgment
from dpo_video.judge.modes.claims import check_split_examples, f1, read_claims, sentence_claims
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore

CLAIMS = load_scorer("caption_claims")
SUPPORT = {"A dog runs.": 0.9, "It barks.": 0.2, "The sky is green.": 0.1}
"""P(supported) of each claim; the rest is contradicted."""
COVERED = 0.8
"""P(all) of every answer; the rest is nothing."""


def labels(**chances: float) -> Answer:
    """Return a reply "Verdict: X" whose label probabilities are these."""
    top = {label: math.log(chance) for label, chance in chances.items() if chance > 0}
    return completion(f"Verdict: {max(chances, key=lambda label: chances[label])}", top=top)


def kind(prompt: str) -> str:
    return (
        "split"
        if "List the claims" in prompt
        else "cover"
        if "how much of what" in prompt
        else "check"
    )


def quoted(prompt: str) -> str:
    return "\n".join(line[2:] for line in prompt.splitlines() if line.startswith("> "))


def judge_it(prompt: str, attempt: int) -> Answer:
    """List an answer's sentences as its claims, and give each the probability in SUPPORT."""
    text = quoted(prompt)
    if kind(prompt) == "split":
        parts = re.findall(r"[^.]+\.", text)
        return completion("\n".join(f"- {part.strip()}" for part in parts) or "none")
    if kind(prompt) == "cover":
        return labels(A=COVERED, B=0.0, C=1 - COVERED)
    chance = SUPPORT[text]
    return labels(A=chance, B=1 - chance, C=0.0)


def run(folder, url, texts, scorer=CLAIMS, **changes):
    items = make_items(1, len(texts))
    items = [
        (sample, type(one)(**{name: getattr(one, name) for name in one.__slots__} | {"text": text}))
        for (sample, one), text in zip(items, texts, strict=True)
    ]
    settings = JudgeSettings(
        **{"backend": "openai", "model": "m", "base_url": url, "retries": 0} | changes
    )
    with RunStore(folder) as store:
        return list(judge_candidates(settings, scorer, items, store).judgments.values())


def test_the_score_is_f1_of_mean_support_and_coverage_and_every_verdict_is_kept(tmp_path):
    with judge_server(judge_it) as server:
        row = run(tmp_path, server.url, ["A dog runs. It barks."])[0]
        assert [kind(prompt) for prompt in server.prompts] == ["split", "check", "check", "cover"]
    precision = (0.9 + 0.2) / 2
    assert row.status == "scored"
    assert row.score == pytest.approx(2 * precision * COVERED / (precision + COVERED), abs=1e-6)
    assert row.details == pytest.approx({"precision": precision, "coverage": COVERED}, abs=1e-6)
    assert [claim["claim"] for claim in row.claims] == ["A dog runs.", "It barks."]
    assert [claim["label"] for claim in row.claims] == ["A", "B"]
    assert row.claims[1]["distribution"] == pytest.approx({"A": 0.2, "B": 0.8, "C": 0.0}, abs=1e-6)
    assert "- It barks. (contradicted, 0.20)" in row.reason
    assert row.reply == "- A dog runs.\n- It barks."


def test_every_reply_is_paid_once_and_equal_claims_are_one_prompt(tmp_path):
    """Two answers share a claim: 2 lists, 3 claims, 2 coverages; the second run asks nothing."""
    texts = ["A dog runs. It barks.", "The sky is green. A dog runs."]
    with judge_server(judge_it) as server:
        first = run(tmp_path, server.url, texts)
        assert (
            sorted(kind(prompt) for prompt in server.prompts)
            == ["check"] * 3 + ["cover"] * 2 + ["split"] * 2
        )
        assert run(tmp_path, server.url, texts, concurrency=1) == first
        assert len(server.requests) == 7


def test_sentences_serve_a_judge_that_cannot_write(tmp_path):
    with judge_server(judge_it) as server:
        row = run(
            tmp_path, server.url, ["A dog runs.\nIt barks.  It barks."], split_claims="sentences"
        )[0]
        assert {kind(prompt) for prompt in server.prompts} == {"check", "cover"}
    assert [claim["claim"] for claim in row.claims] == ["A dog runs.", "It barks."]
    assert sentence_claims(CLAIMS, "Is it? Yes! 3.5 dogs.\u2028...\n").claims == (
        "Is it?",
        "Yes!",
        "3.5 dogs.",
    )


@pytest.mark.parametrize(
    ("reply", "claims", "reason"),
    [
        ("- A.\n- B.", ["A.", "B."], ""),
        ("The claims are:\n1. A.\n2) B.\n", ["A.", "B."], ""),
        ("* A.\n\n\u2022 a.", ["A."], ""),
        ("<think>\n- x\n</think>\n- A.", ["A."], ""),
        ("- 3 dogs.", ["3 dogs."], ""),
        ("", [], "empty reply"),
        ("none", [], "no claim"),
        ("- None.", [], "no claim"),
        ("The dog runs.", [], "malformed claims"),
        ("- A.\nVerdict: A", [], "malformed claims"),
        ("- A.\nOne more:\n- B.", [], "malformed claims"),
        ("-", [], "malformed claims"),
        ("Claims:", [], "malformed"),
    ],
)
def test_a_list_of_claims_is_read_whole_or_not_at_all(reply, claims, reason):
    read = read_claims(CLAIMS, reply)
    assert list(read.claims) == claims
    assert read.reason.startswith(reason)
    assert bool(read.reason) != bool(claims)


@pytest.mark.parametrize(
    ("wrong", "where", "status", "reason"),
    [
        (completion("I cannot list claims."), "split", "unscored", "malformed claims"),
        (completion("none"), "split", "unscored", "no claim"),
        (completion("- A dog", finish="length"), "split", "unscored", "cut off"),
        (
            completion("\n".join(f"- Dog {k}." for k in range(41))),
            "split",
            "unscored",
            "too many claims: 41",
        ),
        (failure(500, "no memory"), "split", "failed", "HTTP 500"),
        (
            completion("Verdict: x", top={"x": 0.0}),
            "check",
            "unscored",
            "little weight on the labels",
        ),
        (failure(500, "no memory"), "check", "failed", "HTTP 500"),
        (
            completion("Verdict: x", top={"x": 0.0}),
            "cover",
            "unscored",
            "little weight on the labels",
        ),
    ],
)
def test_without_every_verdict_there_is_no_score(tmp_path, wrong, where, status, reason):
    with judge_server(
        lambda prompt, attempt: wrong if kind(prompt) == where else judge_it(prompt, attempt)
    ) as server:
        row = run(tmp_path, server.url, ["A dog runs. It barks."])[0]
    assert (row.score, row.status) == (None, status)
    assert row.reason.startswith(reason)


def test_an_answer_without_a_sentence_is_unscored(tmp_path):
    with judge_server(judge_it) as server:
        row = run(tmp_path, server.url, [" ... "], split_claims="sentences")[0]
        assert not server.requests
    assert (row.score, row.status, row.claims) == (None, "unscored", None)
    assert row.reason.startswith("no claim")


def test_written_verdicts_serve_servers_without_label_probabilities(tmp_path):
    def write(prompt: str, attempt: int) -> Answer:
        return judge_it(prompt, attempt) if kind(prompt) == "split" else completion("Verdict: A")

    with judge_server(write) as server:
        row = run(tmp_path, server.url, ["A dog runs."], score_from="verdict")[0]
    assert row.score == 1
    assert "distribution" not in row.claims[0]


def test_f1_without_coverage_is_precision_and_zero_of_zeros():
    assert f1(0.4) == 0.4
    assert f1(0.0, 0.0) == 0.0
    assert f1(0.5, 1.0) == pytest.approx(2 / 3)


def test_claims_survive_the_file_and_are_left_out_where_there_are_none():
    row = Judgment(
        candidate_id="a#0",
        scorer="s",
        judge="j",
        score=1.0,
        status="scored",
        reason="",
        reply="",
        claims=[{"claim": "x", "worth": 1.0}],
        details={"precision": 1.0},
    )
    assert from_dict(Judgment, json.loads(to_json(row)), "f:1") == row
    plain = to_json(
        Judgment(
            candidate_id="a#0",
            scorer="s",
            judge="j",
            score=1.0,
            status="scored",
            reason="",
            reply="",
        )
    )
    assert "claims" not in plain
    assert "details" not in plain


def test_the_hash_knows_the_coverage_scorer_and_the_split_prompt(tmp_path):
    text = CLAIMS.path.read_text()
    other = load_scorer(
        str(write_scorer(tmp_path, text.replace("List the claims", "List all claims")))
    )
    bare = load_scorer(
        str(write_scorer(tmp_path, text.replace("  coverage: caption_coverage\n", ""), name="bare"))
    )
    assert len({CLAIMS.hash, other.hash, bare.hash}) == 3
    assert bare.coverage is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mode: claims", "mode: labels", r"`prompt`: unknown placeholder \{claim\}"),
        ("claims:\n  coverage", "claim:\n  coverage", "unknown key `claim`. Did you mean 'claims'"),
        ("  {claim}\n", "  {answer}\n", r"`prompt`: unknown placeholder \{answer\}"),
        ("    {answer}\n", "    text\n", r"`claims`: its prompt needs \{answer\}"),
        ('"A": 1.0, "B"', '"A": 2.0, "B"', "labels are worth 0 to 1"),
        (
            "coverage: caption_coverage",
            "coverage: hound_quality",
            "'hound_quality' has `mode: verdict`",
        ),
        (
            '{"A": 1.0, "B": 0.0, "C": 0.0}',
            '{"A": 1.0, "B": 0.0, "C c": 0.0}',
            "label 'C c' cannot be one token",
        ),
        (
            "threshold: 0.5",
            "threshold: 0.5\nneeds_reference: true",
            "belongs to `mode: labels` and `mode: verdict`",
        ),
    ],
)
def test_a_wrong_claims_scorer_is_refused(tmp_path, old, new, message):
    text = CLAIMS.path.read_text()
    assert old in text
    with pytest.raises(UserError, match=message):
        load_scorer(str(write_scorer(tmp_path, text.replace(old, new, 1))))


def test_a_claims_scorer_says_how_answers_are_taken_apart(tmp_path):
    text = load_scorer("caption_support").path.read_text().replace("mode: labels", "mode: claims")
    with pytest.raises(UserError, match="`claims`: give it exactly when the mode is claims"):
        load_scorer(str(write_scorer(tmp_path, text.replace("{answer}", "{claim}"))))


def test_a_list_example_that_is_read_otherwise_stops_before_any_call(tmp_path):
    text = CLAIMS.path.read_text().replace(
        'claims: ["The circle is red."]', 'claims: ["The circle is blue."]'
    )
    scorer = load_scorer(str(write_scorer(tmp_path, text)))
    with pytest.raises(
        UserError, match=r"is read as the claims \['The circle is red.'\], the file says"
    ):
        check_split_examples(scorer)


def test_written_verdicts_that_contradict_their_label_tokens_are_counted_for_claims_too(tmp_path):
    """The tokens say "supported" of both claims, and the text "contradicted"."""

    def rewritten(prompt: str, attempt: int) -> Answer:
        if kind(prompt) == "check":
            return completion("Verdict: B", top={" A": math.log(0.9), " B": math.log(0.1)})
        return judge_it(prompt, attempt)

    with judge_server(rewritten) as server:
        (row,) = run(tmp_path, server.url, ["A dog runs. It barks."])
    assert row.details == {"precision": pytest.approx(0.9), "coverage": COVERED, "contradicted": 2}
    assert summarise([row])["contradicted"] == 1
