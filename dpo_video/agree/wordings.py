"""A scorer's prompt in other words, and with its blocks in another order."""

import re

from dpo_video.judge.scorer import Scorer

OPENINGS = (
    "Read everything below before you reply.",
    "This is one of many items; treat each on its own.",
    "Below is all that you need.",
    "Please look at the following with care.",
)
BULLETS = re.compile(r"(?:^[ \t]*[-*] .*\n){2,}", re.MULTILINE)
PLACED = re.compile(r"\{[a-z_]+\}")


def wordings(scorer: Scorer) -> dict[str, Scorer]:
    """Return the scorer's prompt in other words that ask the same: its points and labels explained
    in reverse, or a sentence in front. Their scores should be the same; how far they are not is a
    deterministic judge's noise.
    """
    prompts = {"points in reverse": reverse_points(scorer)}
    for number, opening in enumerate(OPENINGS, start=1):
        prompts[f"opening {number}"] = f"{opening}\n{scorer.prompt}"
    return {
        name: scorer.model_copy(update={"prompt": prompt})
        for name, prompt in prompts.items()
        if prompt != scorer.prompt
    }


def layouts(scorer: Scorer) -> dict[str, Scorer]:
    """Return the scorer with its blocks in another order, to see what position does: stronger than
    another wording, so it is no part of sigma. One that cannot be made of this prompt is left out.
    """
    prompts = {
        "question_first": swap_blocks(scorer.prompt, "caption", "question"),
        "answer_first": swap_blocks(scorer.prompt, "caption", "answer"),
    }
    return {
        name: scorer.model_copy(update={"prompt": prompt})
        for name, prompt in prompts.items()
        if prompt != scorer.prompt
    }


def swap_blocks(prompt: str, first: str, second: str) -> str:
    """Return the prompt with the blocks around two placeholders changing places: a line, or two
    where the first of them ends in a colon and the placeholder stands alone. Unchanged where one is
    missing or both share a block.
    """
    blocks = re.findall(
        r"(?:^[^\n{}]+:[ \t]*\n(?=\{[a-z_]+\}[ \t]*$))?^.*\n?", prompt, re.MULTILINE
    )
    of_first = [index for index, block in enumerate(blocks) if "{" + first + "}" in block]
    of_second = [index for index, block in enumerate(blocks) if "{" + second + "}" in block]
    if len(of_first) != 1 or len(of_second) != 1 or of_first == of_second:
        return prompt
    upper, lower = of_first[0], of_second[0]
    if any(len(PLACED.findall(blocks[index])) > 1 for index in (upper, lower)):
        return prompt
    blocks[upper], blocks[lower] = blocks[lower], blocks[upper]
    return "".join(blocks)


def reverse_points(scorer: Scorer) -> str:
    """Return the prompt with its bullet points, and its explanations of labels ("A: ... B: ..."),
    in reverse order.
    """
    prompt = BULLETS.sub(
        lambda match: "".join(reversed(match[0].splitlines(keepends=True))), scorer.prompt
    )
    labels = "|".join(re.escape(label) for label in scorer.known_labels)
    lines = []
    for line in prompt.split("\n"):
        pieces = re.split(rf"(?<=[.;]) (?=(?:{labels}): )", line) if labels else [line]
        described = len(pieces) > 1 and all(re.match(rf"(?:{labels}): ", piece) for piece in pieces)
        lines.append(" ".join(reversed(pieces)) if described else line)
    return "\n".join(lines)
