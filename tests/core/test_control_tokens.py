"""Control tokens inside plain texts."""

import pytest

from dpo_video.core.control_tokens import ControlTokens

TOKENS = ControlTokens(
    tokens=frozenset({"<|im_start|>", "<|im_end|>", "<|image_pad|>", "</s>", "<s>"}),
    ends=frozenset({"<|im_end|>", "</s>"}),
)


@pytest.mark.parametrize(
    ("answer", "stripped"),
    [
        ("Yes.", "Yes."),
        ("Yes.<|im_end|>", "Yes."),
        ("Yes. <|im_end|>\n", "Yes."),
        ("Yes.</s>", "Yes."),
        ("Yes.<|im_end|><|im_end|>", "Yes.<|im_end|>"),
        ("<|im_end|> Yes.", "<|im_end|> Yes."),
        (" Yes.\n", " Yes.\n"),
    ],
)
def test_one_end_token_that_closes_an_answer_is_stripped(answer, stripped):
    assert TOKENS.without_end(answer) == stripped


def test_the_first_control_token_of_a_text_is_named():
    assert TOKENS.first_in("Is <|image_pad|> in <s>?") == "<|image_pad|>"
    assert TOKENS.first_in("Is 2 < 3 | 4 > 1?") is None
    assert ControlTokens().first_in("<|im_end|>") is None
