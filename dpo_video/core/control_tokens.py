"""Control tokens of a tokenizer inside plain texts: a question that holds one would become another
prompt, an answer would teach the model to write it.
"""

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, kw_only=True)
class ControlTokens:
    """The special tokens of a tokenizer, as they are written."""

    tokens: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    """Those that end an answer: of the tokenizer and of the checkpoint's generation."""

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        longest_first = sorted(self.tokens, key=lambda token: (-len(token), token))
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def first_in(self, text: str) -> str | None:
        """Return the first control token of a text, or None."""
        match = None if self._pattern is None else self._pattern.search(text)
        return None if match is None else match[0]

    def without_end(self, answer: str) -> str:
        """Return an answer without the one end token that it closes with, and the space about it.

        Trailing whitespace alone is left as it is.
        """
        closed = answer.rstrip()
        for token in self.ends:
            if closed.endswith(token):
                return closed.removesuffix(token).rstrip()
        return answer


NO_TOKENS = ControlTokens()
"""Of a policy whose tokenizer is not at hand."""
