"""Answers that need no call of the judge: those that say the same, and those that cleaning leaves
out.
"""

import json
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_server import completion, judge_server
from preferences import records

from dpo_video.core.control_tokens import NO_TOKENS, ControlTokens
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Candidate, Judgment, Pair
from dpo_video.core.text import normalise, shingles, similarity
from dpo_video.data.answer_filters import (
    filter_answers,
    is_refusal,
    repetition,
    same_answers,
    why_dropped,
)
from dpo_video.judge.candidate_file import open_candidates
from dpo_video.judge.stage import judge
from dpo_video.pair.stage import pair
from dpo_video.recipe import CleanSettings, Recipe
from dpo_video.run import open_run

LONG = "A man in a red shirt walks his dog along the beach while the sun goes down behind the hills"


def answers(*texts: str):
    return records({"q": [(text, 1.0) for text in texts]})[1]


def test_case_punctuation_and_spaces_make_no_other_answer() -> None:
    same = same_answers(
        answers("A dog.", "a  DOG", "A dog!\n", "two dogs", "Two, dogs"), min_similarity=1.0
    )
    assert same == {"q#1": "q#0", "q#2": "q#0", "q#4": "q#3"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-5 degrees", "5 degrees"),
        ("5%", "5"),
        ("1.5 m", "15 m"),
        ("a < b", "a > b"),
        ("C#", "C"),
        ("\u4e00\u53ea\u72d7", "\u4e24\u53ea\u72d7"),
    ],
)
def test_signs_that_mean_something_keep_answers_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)
    assert same_answers(answers(one, other), min_similarity=1.0) == {}


@given(st.text(st.sampled_from([chr(code) for code in range(128)]) | st.characters(), max_size=40))
def test_texts_are_normalised_mark_by_mark(text: str) -> None:
    """The obvious way: each mark by itself; a hyphen stays before a digit, % & @ # and what is no
    punctuation stay.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    signs = []
    for place, sign in enumerate(folded):
        following = folded[place + 1 : place + 2]
        is_mark = re.match(r"[^\w\s]|_", sign) is not None
        meant = (
            not unicodedata.category(sign).startswith("P")
            or sign in "%&@#"
            or (sign == "-" and following.isdigit())
        )
        signs.append(" " if is_mark and not meant else sign)
    assert normalise(text) == " ".join("".join(signs).split())


def test_near_duplicates_join_the_first_that_they_are_similar_to() -> None:
    """#1 differs from #0 in its last word, #2 in half of its words: recomputed by hand from the
    shared pieces.
    """
    texts = [
        LONG,
        LONG.replace("hills", "houses"),
        "A man in a red shirt sits in a car and eats in the rain",
    ]

    def pieces(text: str) -> set[str]:
        return {text.lower()[begin : begin + 5] for begin in range(len(text) - 4)}

    near, far = (
        len(pieces(texts[0]) & pieces(text)) / len(pieces(texts[0]) | pieces(text))
        for text in texts[1:]
    )
    assert far < 0.4 < 0.8 < near < 1
    assert similarity(shingles(texts[0]), shingles(texts[1])) == near
    assert same_answers(answers(*texts), min_similarity=near) == {"q#1": "q#0"}
    assert same_answers(answers(*texts), min_similarity=near + 0.001) == {}


def test_of_equal_answers_the_one_that_was_not_cut_is_judged() -> None:
    cut, whole, again = answers("a dog", "A dog.", "a dog")
    group = [replace(cut, finish="length"), whole, again]
    assert same_answers(group, min_similarity=1.0) == {"q#0": "q#1", "q#2": "q#1"}


def test_questions_do_not_share_answers_and_order_stays(tmp_path: Path) -> None:
    samples, candidates, _ = records(
        {"a": [("yes", 1.0), ("Yes.", 1.0)], "b": [("yes", 1.0), ("a", 1.0)]}
    )
    write_jsonl(tmp_path / "candidates.jsonl", candidates)
    opened = open_candidates(
        tmp_path / "candidates.jsonl", samples, CleanSettings(answer_min_length=2)
    )
    assert [candidate for _, _, candidate in opened.in_order()] == candidates
    assert list(opened.plan.judged_as) == [0, 0, 2, 3]
    assert opened.plan.dropped == {3: "too short: 1 characters"}


def test_an_answer_with_a_control_token_is_not_judged_but_an_end_token_is_no_word(
    tmp_path: Path,
) -> None:
    tokens = ControlTokens(
        tokens=frozenset({"<|im_start|>", "<|im_end|>"}), ends=frozenset({"<|im_end|>"})
    )
    texts = ["A dog.<|im_end|>", "<|im_start|>assistant\nA cat.<|im_end|>"]
    samples, candidates, _ = records({"a": [(text, 1.0) for text in texts]})
    write_jsonl(tmp_path / "candidates.jsonl", candidates)
    opened = open_candidates(tmp_path / "candidates.jsonl", samples, CleanSettings(), tokens=tokens)
    assert opened.plan.dropped == {1: "control token: <|im_start|>"}


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't see the video.",
        "I cannot view videos",
        "I\u2019m sorry, I can not access the clip.",
        "As an AI language model, I ...",
        "Unfortunately, no video was provided.",
        "I do not have access to the video.",
        "The video could not be loaded.",
        "Sorry, I am unable to watch it",
        "I cannot see.",
        "I'm unable to see any video.",
        "I cannot directly view or analyze videos.",
        "I'm sorry, but I can't see the video clip, so I cannot answer.",
        "I cannot watch the attached video",
        "I could not open the clip that was provided.",
        "I cannot describe the video.",
        "I cannot access the video you uploaded.",
        "I can't help with that.",
        "I'm sorry, I cannot assist you.",
        "I cannot fulfill this request.",
        "I cannot process your request.",
        "I am unable to access external content.",
        "I cannot determine the color of the car without seeing the video.",
    ],
)
def test_refusals_are_known_by_how_they_begin(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "The man cannot see the car.",
        "He says: I cannot see the video.",
        "No images hang on the wall",
        "No.",
        "The video is provided with subtitles by a broadcaster",
        "I can see a dog",
        "Sorry is written on the sign",
        "I cannot see any dog in the video.",
        "I can't see a red car; only a blue truck drives by.",
        "I cannot see it.",
        "I cannot determine the exact colour, but it looks red.",
        "I cannot see the video game that he plays.",
        "I cannot see any image on the wall.",
        "I cannot see the image that hangs behind her.",
        "I cannot see the dog.",
        "I cannot describe the man's face: he turns away.",
        "I cannot provide a number, the crowd is too dense.",
        "I cannot help but notice the dog.",
        "I cannot tell who he is without seeing his face in the video.",
        "I'm sorry, but I cannot see any person opening the door.",
    ],
)
def test_an_answer_about_not_seeing_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_repetition_is_the_share_of_runs_of_four_words_seen_before() -> None:
    """'the dog runs and' x 3: 12 words, 9 runs, of which the 4 first differ and 5 return."""
    assert repetition("the dog runs and " * 3) == pytest.approx(5 / 9)
    assert repetition(LONG) == 0 and repetition("a dog") == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"drop_cut_answers": True}, "cut"),
        ({"answer_min_length": 30}, "too short: 24 characters"),
        ({"answer_max_length": 20}, "too long: 24 characters"),
        ({"max_repetition": 0.1}, "repetition"),
        ({"drop_refusals": True}, None),
        ({}, None),
    ],
)
def test_each_answer_filter_is_off_until_set(settings, reason) -> None:
    candidate = replace(answers("a dog a dog a dog a dog.")[0], finish="length")
    found = why_dropped(candidate, CleanSettings(**settings))
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_the_judge_is_asked_once_per_text_and_pairs_count_what_was_merged_and_cleaned(
    tmp_path: Path,
) -> None:
    """Of seven answers two repeat others and one refuses: four calls; a twin has the judgment of
    the one it equals.
    """
    samples, candidates, _ = records(
        {
            "q": [
                ("A dog.", None),
                ("a dog", None),
                ("I cannot see the video.", None),
                ("a cat", None),
                (LONG, None),
                (LONG + "!", None),
                ("two birds", None),
            ]
        }
    )
    write_jsonl(tmp_path / "samples.jsonl", samples)
    with judge_server(
        lambda prompt, _: completion("Score: 5" if "A dog." in prompt else "Score: 1")
    ) as server:
        recipe = Recipe.model_validate(
            {
                "name": "r",
                "runs_folder": str(tmp_path),
                "model": {"name": "m"},
                "tracking": {"to": "none"},
                "data": {"samples": str(tmp_path / "samples.jsonl")},
                "clean": {"drop_refusals": True},
                "judge": {"model": "j", "scorer": "hound_quality", "base_url": server.url},
            }
        )
        with open_run(recipe) as run:
            write_jsonl(run.folder / "candidates.jsonl", candidates)
            summary = judge(run).counts
            calls = len(server.requests)
            rows = {
                row.candidate_id: row
                for row in read_jsonl(run.folder / "judgments.jsonl", Judgment)
            }
            paired = pair(run).counts
            pairs = list(read_jsonl(run.folder / "pairs.jsonl", Pair))
            cleaned = [
                json.loads(line) for line in (run.folder / "cleaned.jsonl").read_text().splitlines()
            ]
    assert calls == summary["asked"] == 4 and summary["same_text"] == 2 and summary["dropped"] == 1
    assert list(rows) == [candidate.id for candidate in candidates]
    assert (
        rows["q#1"] == replace(rows["q#0"], candidate_id="q#1", taken_from="q#0")
        and rows["q#1"].score == 5
    )
    assert rows["q#5"].taken_from == "q#4" and rows["q#0"].taken_from is None
    assert (rows["q#2"].status, rows["q#2"].score) == ("dropped", None)
    assert [(row["unit"], row["id"], row["reason"], row["where"]) for row in cleaned] == [
        ("answer", "q#2", "refusal", "q")
    ]
    assert Counter(paired["answers_dropped"]) == {"duplicate": 2, "cleaned": 1}
    assert [(row.chosen_id, row.chosen_score) for row in pairs] == [("q#0", 5.0)]


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("According to the caption, a man pours oil.", "According to the caption"),
        ("Based on the provided description the dog runs.", "Based on the provided description"),
        ("The caption says it is red.", "The caption says"),
        ("She leaves, as stated in the video caption.", "as stated in the video caption"),
        ("The reference answer is red.", "reference answer"),
        ("The description does not mention a dog.", "The description does not"),
        ("A caption on the screen reads 'Day 1'.", None),
        ("The man gives a description of the car.", None),
        ("The correct answer is red.", None),
        ("He follows the man in the red hat.", None),
    ],
)
def test_a_privileged_answer_that_cites_its_source_is_not_judged(text, cited):
    plain = Candidate(id="s#0", sample_id="s", text=text, model="m", settings="h", seed=0)
    knowing = replace(plain, id="s#1", privileged=True)
    other = replace(plain, id="s#2", text="Something else.")
    _, dropped = filter_answers([other, knowing], CleanSettings(), NO_TOKENS)
    assert dropped == ({} if cited is None else {"s#1": f"cites its source: {cited}"})
    assert filter_answers([other, plain], CleanSettings(), NO_TOKENS)[1] == {}
