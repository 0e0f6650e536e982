"""The answer rules that benchmarks publish, defects included, each with its source.

They are here so that our numbers can be held against published ones. `strict.py` reads answers
without these defects, and is what a comparison of two models should rest on.
"""

import re
from functools import partial

from dpo_video.benchmarks.readings import UNREADABLE, Reading, ReadingRule, gold_option
from dpo_video.core.records import Sample
from dpo_video.data.choices import LETTERS

FOUR = "ABCD"
VIDEOMME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
"""Two commas are missing in the source, so that the last four are two, which no answer holds."""
LONGVIDEOBENCH_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)


def videohallucer(question: Sample, answer: str) -> Reading:
    r"""VideoHallucer: right where the gold word stands anywhere in the answer, in any case.

    `\b(yes)\b`, `\b(no)\b` with IGNORECASE: evaluations/evaluation_bias.py of
    patrick-tssn/VideoHallucer, and its evaluation at ae4c2f2. An answer that says both counts as
    right for either gold.
    """
    gold = str(question.answer)
    if re.search(rf"\b({gold})\b", answer, re.IGNORECASE):
        return Reading(parsed=gold, correct=True)
    opposite = "no" if gold == "yes" else "yes"
    is_opposite = re.search(rf"\b({opposite})\b", answer, re.IGNORECASE)
    return Reading(parsed=opposite, correct=False) if is_opposite else UNREADABLE


def eventhallusion(question: Sample, answer: str) -> Reading:
    """EventHallusion, binary: the lower-cased answer starts with `yes` or `no`.

    extract_pred in eval.py of Stevetich/EventHallusion. `Not sure.` is a no, and so is
    `Nothing unexpected happens.`; a space in front makes an answer unreadable.
    """
    return _starts_with_yes_or_no(question, answer)


def tempcompass_yes_no(question: Sample, answer: str) -> Reading:
    """TempCompass yes_no: as EventHallusion, after `</s>` is taken out.

    extract_pred in eval_yes_no.py of llyx97/TempCompass. What it cannot read its authors give to
    GPT-3.5; here it is unparsed and wrong, as under their `--disable_llm`.
    """
    return _starts_with_yes_or_no(question, answer.replace("</s>", ""))


def tempcompass_multi_choice(question: Sample, answer: str) -> Reading:
    """TempCompass multi-choice: the gold line whole, one letter alone, or what starts with `A.` or
    `A)`.

    main in eval_multi-choice.py of llyx97/TempCompass. `a`, `(A)` and ` A.` are unreadable; `A.B`
    is A.
    """
    text = answer.replace("</s>", "")
    gold = question.answer
    if text == gold_option(question):
        return Reading(parsed=gold, correct=True)
    if text in tuple(FOUR) or (text[:1] in tuple(FOUR) and text[1:2] in (".", ")")):
        return Reading(parsed=text[0], correct=text[0] == gold)
    return UNREADABLE


def tempcompass_caption_matching(question: Sample, answer: str) -> Reading:
    """TempCompass caption_matching: an option whole, its sentence, its label (`Caption A`) or what
    stands behind the label's word (`A`), labels with or without dots.

    eval_rule in eval_caption_matching.py of llyx97/TempCompass at c2ec41e; where several fit, the
    last one counts. What stands behind the first `) ` of an answer may be the sentence, too.
    """
    text = answer.replace("</s>", "").strip()
    behind_bracket = text.split(") ")[1] if ") " in text else text
    options = question.options or []
    named, index = None, 0
    for number, option in enumerate(options):
        named, index = (option, number) if option == text else (named, index)
    for number, option in enumerate(options):
        sentence = option.split(": ")[1]
        is_named = sentence in (text, behind_bracket)
        named, index = (sentence, number) if is_named else (named, index)
    labels = [option.split(": ")[0] for option in options]
    for number, label in enumerate((*labels, *map(_without_kind, labels))):
        is_named = label in (text, text.replace(".", ""))
        named, index = (label, number % len(options)) if is_named else (named, index)
    if named is None:
        return UNREADABLE
    gold = gold_option(question)
    label, sentence = gold.split(": ")[:2]
    return Reading(
        parsed=LETTERS[index], correct=named in (gold, label, sentence, label.split()[1])
    )


def mvbench(question: Sample, answer: str) -> Reading:
    """MVBench: the first word of the answer, without dots, is a part of the gold letter in
    brackets, or holds it.

    check_ans of the MVBench notebook (OpenGVLab/Ask-Anything) and of its copies in model
    repositories. A first word without one of the letters a to g is unreadable. `A` and `a)` are
    (A), and so is any word that is a part of "(a)".
    """
    first = answer.lower().split(" ")[0]
    gold = f"({str(question.answer).lower()})"
    if not any(letter in first for letter in "abcdefg"):
        return UNREADABLE
    return Reading(parsed=first, correct=first.replace(".", "") in gold or gold in first)


def mlvu(question: Sample, answer: str) -> Reading:
    """MLVU: what stands before the first `)` is the gold letter and nothing else.

    check_ans in videochat2/choice_bench.py of JUNJIE99/MLVU, whose model goes on behind `Best
    option:(`. `(A)` is unreadable, `A) a cat` and `A` are A, `A. a cat` is unreadable.
    """
    letter = answer.split(")")[0]
    if letter not in tuple(LETTERS[: len(question.options or ())]):
        return UNREADABLE
    return Reading(parsed=letter, correct=letter == question.answer)


def tvbench(question: Sample, answer: str) -> Reading:
    """TVBench as lmms-eval scores it: the first letter that stands alone, in any case; else the
    letter that the answer begins with; else the one option whose text is part of the answer.

    _extract_choice_letter in lmms_eval/tasks/tvbench/utils.py. `a dog runs after (B)` is an A, and
    so is `Apple`.
    """
    texts = [option.partition(". ")[2] for option in question.options or ()]
    offered = LETTERS[: len(texts)]
    upper = answer.strip().upper()
    for pattern in (r"^.*?\b([A-Z])\b", r"^\s*[(\[]?([A-Z])[)\].:]?"):
        match = re.match(pattern, upper, re.DOTALL)
        if match and match[1] in offered:
            return Reading(parsed=match[1], correct=match[1] == question.answer)
    normalised = " ".join(answer.lower().split())
    named = [
        letter
        for letter, text in zip(offered, texts, strict=True)
        if " ".join(text.lower().split()) in normalised
    ]
    if len(named) != 1 or not normalised:
        return UNREADABLE
    return Reading(parsed=named[0], correct=named[0] == question.answer)


def first_capital(
    question: Sample, answer: str, *, letters: str, prefixes: tuple[str, ...]
) -> Reading:
    """Return the first of some capital letters in the answer, after phrases are taken out.

    extract_characters_regex of Video-MME (eval_your_results.py; lmms_eval/tasks/videomme/utils.py)
    and parse_multi_choice_response of LongVideoBench (lmms_eval/tasks/longvideobench/utils.py). `A
    dog runs after B` is an A, and so is `An apple`. LongVideoBench answers at random where there is
    none; here it is unparsed and wrong.
    """
    text = answer.strip()
    for prefix in prefixes:
        text = text.replace(prefix, "")
    match = re.search(f"[{letters}]", text)
    if match is None:
        return UNREADABLE
    return Reading(parsed=match[0], correct=match[0] == question.answer)


videomme: ReadingRule = partial(first_capital, letters=FOUR, prefixes=VIDEOMME_PREFIXES)
longvideobench: ReadingRule = partial(
    first_capital, letters="ABCDE", prefixes=LONGVIDEOBENCH_PREFIXES
)


def vidhalluc_binary(question: Sample, answer: str) -> Reading:
    """VidHalluc binary: what stands before the first full stop and comma is yes or no, in any case.

    compute in eval/evaluation/eval_bqa.py of Vid-Halluc/VidHalluc. `**Yes**` and `Yes it is` are
    unreadable.
    """
    word = answer.strip().split(".")[0].split(",")[0].strip().lower()
    if word not in ("yes", "no"):
        return UNREADABLE
    return Reading(parsed=word, correct=word == question.answer)


def vidhalluc_multi_choice(question: Sample, answer: str) -> Reading:
    r"""VidHalluc multiple choice: all letters `\b[A-D]\b` of the answer together are the gold ones;
    without any, the first option whose text is part of the answer.

    extract_answer and match_model_answer in eval/evaluation/eval_mcq.py of Vid-Halluc/VidHalluc. `A
    man cuts (B)` says A and B; `ABC` holds no letter that stands alone.
    """
    letters = "".join(sorted(set(re.findall(r"\b[A-D]\b", answer))))
    for option in () if letters else question.options or ():
        label, _, text = option.partition(". ")
        if text.lower() in answer.lower():
            letters = label
            break
    if not letters:
        return UNREADABLE
    return Reading(parsed=letters, correct=letters == question.answer)


def vinoground(question: Sample, answer: str) -> Reading:
    """Vinoground: the first character of the answer is the gold letter, in any case.

    get_score_all.py of Vinoground/Vinoground and vinoground_aggregate_results of lmms-eval. `A man
    ...` is an A, `(B)` is unreadable.
    """
    letter = answer[:1].upper()
    if not letter or letter not in LETTERS[: len(question.options or ())]:
        return UNREADABLE
    return Reading(parsed=letter, correct=letter == question.answer)


def _without_kind(label: str) -> str:
    """Return what tells the options of a question apart: `A` of `Caption A`."""
    for kind in ("Sentence ", "Option ", "Caption "):
        label = label.replace(kind, "")
    return label


def _starts_with_yes_or_no(question: Sample, answer: str) -> Reading:
    for word in ("yes", "no"):
        if answer.lower().startswith(word):
            return Reading(parsed=word, correct=word == question.answer)
    return UNREADABLE
