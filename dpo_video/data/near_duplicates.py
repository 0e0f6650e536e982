"""Texts that are nearly the same, among millions: MinHash finds candidates, the exact similarity
decides.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

from rensa import RMinHash, RMinHashLSH

from dpo_video.core.text import normalised_text, shingles, similarity

PERMUTATIONS = 128
SEED = 1
MISSED = 1e-3
"""Most of the pairs exactly at the threshold that may go unfound; of more similar ones far fewer
do.
"""

Find = Callable[[str], Iterator[int]]
Add = Callable[[str, int], None]


def near_index(min_similarity: float) -> tuple[Add, Find]:
    """Return two functions: add a text under a number, and yield the numbers of texts at least this
    similar to one.

    Numbers come in ascending order. With `min_similarity` 1 only texts equal up to case,
    punctuation and spaces are found.
    """
    return _equal_index() if min_similarity >= 1 else _minhash_index(min_similarity)


def _equal_index() -> tuple[Add, Find]:
    numbers_of: dict[str, list[int]] = {}

    def add(text: str, number: int) -> None:
        numbers_of.setdefault(normalised_text(text), []).append(number)

    def find(text: str) -> Iterator[int]:
        yield from numbers_of.get(normalised_text(text), [])

    return add, find


def _minhash_index(min_similarity: float) -> tuple[Add, Find]:
    index = RMinHashLSH(
        threshold=min_similarity, num_perm=PERMUTATIONS, num_bands=num_bands(min_similarity)
    )
    texts: dict[int, str] = {}

    def add(text: str, number: int) -> None:
        texts[number] = text
        index.insert(number, _sketch(text))

    def find(text: str) -> Iterator[int]:
        for number in sorted(index.query(_sketch(text))):
            if is_near(text, texts[number], min_similarity):
                yield number

    return add, find


def is_near(first: str, second: str, min_similarity: float) -> bool:
    """Return whether two texts are at least this similar; texts without a piece are near where they
    are equal.
    """
    if min_similarity >= 1 or not _pieces(first):
        return normalised_text(first) == normalised_text(second)
    return similarity(_pieces(first), _pieces(second)) >= min_similarity


def num_bands(min_similarity: float) -> int:
    """Return the fewest bands of the sketch, a power of two, that find texts of this similarity but
    for `MISSED`.

    With b bands of r rows each, two texts of similarity s share no band with probability (1 -
    s^r)^b (Leskovec et al., Mining of Massive Datasets, sec. 3.4.2).
    """
    bands = 1
    while (
        bands < PERMUTATIONS and (1 - min_similarity ** (PERMUTATIONS // bands)) ** bands > MISSED
    ):
        bands *= 2
    return bands


@lru_cache(maxsize=4096)
def _pieces(text: str) -> frozenset[str]:
    return shingles(text)


@lru_cache(maxsize=64)
def _sketch(text: str) -> RMinHash:
    sketch = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    sketch.update(sorted(_pieces(text)) or [normalised_text(text)])
    return sketch
