"""Clips that questions of one group ask about: a bootstrap draws them together."""

from collections.abc import Iterable, Sequence


def linked_clips(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return what is drawn together with each clip, by the name of one of them: clips that a group
    asks about together, and those that these are grouped with.

    Example: of the groups a b, b c and d it is {a: a, b: a, c: a, d: d}.
    """
    linked: dict[str, str] = {}

    def first_of(clip: str) -> str:
        while linked.setdefault(clip, clip) != clip:
            clip = linked[clip]
        return clip

    for clips in groups:
        for clip in clips:
            linked[first_of(clip)] = first_of(clips[0])
    return {clip: first_of(clip) for clip in linked}
