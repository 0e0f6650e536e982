"""The answer rules that benchmarks publish, defects included, each with its source.

They are here so that our numbers can be held against published ones. `strict.py` reads answers
without these defects, and is what a comparison of two models should rest on.
"""

import re

from dpo_video.benchmarks.questions import BenchmarkQuestion, Reading

UNREADABLE = Reading(parsed=None, correct=False)
LETTERS = "ABCD"


def videohallucer(question: BenchmarkQuestion, answer: str) -> Reading:
    r"""VideoHallucer: right where the gold word stands anywhere in the answer, in any case.

    `\b(yes)\b`, `\b(no)\b` with IGNORECASE: evaluations/evaluation_bias.py of
    patrick-tssn/VideoHallucer, and its evaluation at ae4c2f2. An answer that says both counts as
    right for either gold.
    """
    gold = question.answer.lower()
    if re.search(rf"\b({gold})\b", answer, re.IGNORECASE):
        return Reading(parsed=gold, correct=True)
    opposite = "no" if gold == "yes" else "yes"
    is_opposite = re.search(rf"\b({opposite})\b", answer, re.IGNORECASE)
    return Reading(parsed=opposite, correct=False) if is_opposite else UNREADABLE


def eventhallusion(question: BenchmarkQuestion, answer: str) -> Reading:
    """EventHallusion, binary: the lower-cased answer starts with `yes` or `no`.

    extract_pred in eval.py of Stevetich/EventHallusion. `Not sure.` is a no, and so is
    `Nothing unexpected happens.`; a space in front makes an answer unreadable.
    """
    return _starts_with_yes_or_no(question, answer)


def tempcompass_yes_no(question: BenchmarkQuestion, answer: str) -> Reading:
    """TempCompass yes_no: as EventHallusion, after `</s>` is taken out.

    extract_pred in eval_yes_no.py of llyx97/TempCompass. What it cannot read its authors give to
    GPT-3.5; here it is unparsed and wrong, as under their `--disable_llm`.
    """
    return _starts_with_yes_or_no(question, answer.replace("</s>", ""))


def tempcompass_multi_choice(question: BenchmarkQuestion, answer: str) -> Reading:
    """TempCompass multi-choice: the gold line whole, one letter alone, or what starts with `A.` or
    `A)`.

    main in eval_multi-choice.py of llyx97/TempCompass. `a` and `(A)` are unreadable; `A.B` is A.
    """
    text = answer.replace("</s>", "")
    gold = question.answer[0]
    if text == question.answer:
        return Reading(parsed=gold, correct=True)
    if text in tuple(LETTERS) or (text[:1] in tuple(LETTERS) and text[1:2] in (".", ")")):
        return Reading(parsed=text[0], correct=text[0] == gold)
    return UNREADABLE


def tempcompass_caption_matching(question: BenchmarkQuestion, answer: str) -> Reading:
    """TempCompass caption_matching: an option whole, its sentence, its label (`Caption A`) or what
    stands behind the label's word (`A`), labels with or without dots.

    eval_rule in eval_caption_matching.py of llyx97/TempCompass at c2ec41e; where several fit, the
    last one counts. What stands behind the first `) ` of an answer may be the sentence, too.
    """
    text = answer.replace("</s>", "").strip()
    behind_bracket = text.split(") ")[1] if ") " in text else text
    parsed = None
    for option in question.options:
        parsed = option if option == text else parsed
    for option in question.options:
        sentence = option.split(": ")[1]
        parsed = sentence if sentence in (text, behind_bracket) else parsed
    labels = [option.split(": ")[0] for option in question.options]
    for label in (*labels, *map(_without_kind, labels)):
        parsed = label if label in (text, text.replace(".", "")) else parsed
    if parsed is None:
        return UNREADABLE
    label, sentence = question.answer.split(": ")[:2]
    return Reading(
        parsed=parsed, correct=parsed in (question.answer, label, sentence, label.split()[1])
    )


def mvbench(question: BenchmarkQuestion, answer: str) -> Reading:
    """MVBench and TVBench: the first word of the answer, without dots, is a part of the gold letter
    in brackets, or holds it.

    check_ans of the MVBench notebook (OpenGVLab/Ask-Anything) and of its copies in model
    repositories. A first word without one of the letters a to g is unreadable. `A` and `a)` are
    (A), and so is any word that is a part of "(a)".
    """
    first = answer.lower().split(" ")[0]
    gold = question.answer.lower().split(" ")[0]
    if not any(letter in first for letter in "abcdefg"):
        return UNREADABLE
    return Reading(parsed=first, correct=first.replace(".", "") in gold or gold in first)


def _without_kind(label: str) -> str:
    """Return what tells the options of a question apart: `A` of `Caption A`."""
    for kind in ("Sentence ", "Option ", "Caption "):
        label = label.replace(kind, "")
    return label


def _starts_with_yes_or_no(question: BenchmarkQuestion, answer: str) -> Reading:
    gold = question.answer.lower().rstrip(".")
    for word in ("yes", "no"):
        if answer.lower().startswith(word):
            return Reading(parsed=word, correct=word == gold)
    return UNREADABLE
