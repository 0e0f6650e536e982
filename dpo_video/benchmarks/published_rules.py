"""The answer rules that benchmarks publish, defects included, each with its source.

They are here so that our numbers can be held against published ones. `strict.py` reads answers
without these defects, and is what a comparison of two models should rest on.
"""

import re

from dpo_video.benchmarks.items import BenchmarkItem, Reading

UNREADABLE = Reading(parsed=None, correct=False)
LETTERS = "ABCD"


def videohallucer(item: BenchmarkItem, answer: str) -> Reading:
    r"""VideoHallucer: right where the gold word stands anywhere in the answer, in any case.

    `\b(yes)\b`, `\b(no)\b` with IGNORECASE: evaluations/evaluation_bias.py of
    patrick-tssn/VideoHallucer, and its evaluation at ae4c2f2. An answer that says both counts as
    right for either gold.
    """
    gold = item.answer.lower()
    if re.search(rf"\b({gold})\b", answer, re.IGNORECASE):
        return Reading(parsed=gold, correct=True)
    other = "no" if gold == "yes" else "yes"
    said = re.search(rf"\b({other})\b", answer, re.IGNORECASE)
    return Reading(parsed=other, correct=False) if said else UNREADABLE


def eventhallusion(item: BenchmarkItem, answer: str) -> Reading:
    """EventHallusion, binary: the lower-cased answer starts with `yes` or `no`.

    extract_pred in eval.py of Stevetich/EventHallusion. `Not sure.` is a no, and so is
    `Nothing unexpected happens.`; a space in front makes an answer unreadable.
    """
    return _starts_with_yes_or_no(item, answer)


def tempcompass_yes_no(item: BenchmarkItem, answer: str) -> Reading:
    """TempCompass yes_no: as EventHallusion, after `</s>` is taken out.

    extract_pred in eval_yes_no.py of llyx97/TempCompass. What it cannot read its authors give to
    GPT-3.5; here it is unparsed and wrong, as under their `--disable_llm`.
    """
    return _starts_with_yes_or_no(item, answer.replace("</s>", ""))


def tempcompass_multi_choice(item: BenchmarkItem, answer: str) -> Reading:
    """TempCompass multi-choice: the gold line whole, one letter alone, or what starts with `A.` or
    `A)`.

    main in eval_multi-choice.py of llyx97/TempCompass. `a` and `(A)` are unreadable; `A.B` is A.
    """
    text = answer.replace("</s>", "")
    gold = item.answer[0]
    if text == item.answer:
        return Reading(parsed=gold, correct=True)
    if text in tuple(LETTERS) or (text[:1] in tuple(LETTERS) and text[1:2] in (".", ")")):
        return Reading(parsed=text[0], correct=text[0] == gold)
    return UNREADABLE


def tempcompass_caption_matching(item: BenchmarkItem, answer: str) -> Reading:
    """TempCompass caption_matching: an option whole, its sentence, its label (`Caption A`) or what
    stands behind the label's word (`A`), labels with or without dots.

    eval_rule in eval_caption_matching.py of llyx97/TempCompass at c2ec41e; where several fit, the
    last one counts. What stands behind the first `) ` of an answer may be the sentence, too.
    """
    text = answer.replace("</s>", "").strip()
    behind_bracket = text.split(") ")[1] if ") " in text else text
    parsed = None
    for option in item.options:
        parsed = option if option == text else parsed
    for option in item.options:
        sentence = option.split(": ")[1]
        parsed = sentence if sentence in (text, behind_bracket) else parsed
    labels = [option.split(": ")[0] for option in item.options]
    for label in (*labels, *map(_without_kind, labels)):
        parsed = label if label in (text, text.replace(".", "")) else parsed
    if parsed is None:
        return UNREADABLE
    label, sentence = item.answer.split(": ")[:2]
    return Reading(
        parsed=parsed, correct=parsed in (item.answer, label, sentence, label.split()[1])
    )


def mvbench(item: BenchmarkItem, answer: str) -> Reading:
    """MVBench and TVBench: the first word of the answer, without dots, is a part of the gold letter
    in brackets, or holds it.

    check_ans of the MVBench notebook (OpenGVLab/Ask-Anything) and of its copies in model
    repositories. A first word without one of the letters a to g is unreadable. `A` and `a)` are
    (A), and so is any word that is a part of "(a)".
    """
    first = answer.lower().split(" ")[0]
    gold = item.answer.lower().split(" ")[0]
    if not any(letter in first for letter in "abcdefg"):
        return UNREADABLE
    return Reading(parsed=first, correct=first.replace(".", "") in gold or gold in first)


def _without_kind(label: str) -> str:
    """Return what tells the options of a question apart: `A` of `Caption A`."""
    for kind in ("Sentence ", "Option ", "Caption "):
        label = label.replace(kind, "")
    return label


def _starts_with_yes_or_no(item: BenchmarkItem, answer: str) -> Reading:
    gold = item.answer.lower().rstrip(".")
    for word in ("yes", "no"):
        if answer.lower().startswith(word):
            return Reading(parsed=word, correct=word == gold)
    return UNREADABLE
