"""Read a vocabulary in tiktoken's format, as Qwen 1 publishes it, into a tokenizer of transformers;
the package tiktoken and the repository's tokenizer code are not needed.
"""

import base64
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, normalizers
from transformers import AddedToken, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen 1 cuts a text into words before it merges bytes."""


class _FromFile(TikTokenConverter):
    """transformers' converter, reading the file itself."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        """Return the rank of each token: a line holds it in base64 and its rank."""
        lines = Path(tiktoken_url).read_bytes().splitlines()
        pairs = (line.split() for line in lines if line)
        return {base64.b64decode(token): int(rank) for token, rank in pairs}


def read_tiktoken(
    file: Path, special: Iterable[str], *, plain: frozenset[str], end: str, pad: str
) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a file, `special` tokens following its own in their order.

    Args:
        plain: those of `special` that answers may hold, such as the marks of boxes.
    """
    converter = _FromFile(vocab_file=str(file), pattern=PATTERN)
    backend: Tokenizer = converter.converted()
    backend.normalizer = normalizers.NFC()
    backend.add_tokens(
        [AddedToken(token, normalized=False, special=token not in plain) for token in special]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end, pad_token=pad, padding_side="left"
    )
