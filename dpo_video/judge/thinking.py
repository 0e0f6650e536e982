"""Where the thinking of a reasoning model ends in its reply, whatever its marks: only what stands
behind it counts.
"""

import re

MARK = re.compile(
    r"""
      <\|?(?P<slash>/)?(?P<edge>(?:begin|start|end)_(?:of_)?)?   # <|begin_of_thought|>
        (?P<word>(?:[\w-]+:)?(?:thinking|think|thoughts?|reasoning))\|?>   # <think>  <seed:think>
    | \u25c1(?P<kimi>/)?think\u25b7
    | (?-i:\[(?P<mistral>/)?THINK\])
    | <\|channel\|>\s*(?P<channel>analysis|commentary|final)\b[^<]*<\|message\|>   # gpt-oss
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""A mark where thinking begins or ends."""


def thinking_end(text: str) -> tuple[int, str | None]:
    """Return where a reply's thinking ends (0 where it has none), and the mark of thinking that
    does not end, or None.

    A closing mark alone ends thinking too: many chat templates open it in the prompt.
    """
    end, unclosed = 0, dict[str, str]()
    for match in MARK.finditer(text):
        name, closes = _read_mark(match)
        if closes:
            end = match.end()
            unclosed.pop(name, None)
        else:
            unclosed[name] = match[0]
    return end, next(iter(unclosed.values()), None)


def _read_mark(match: re.Match[str]) -> tuple[str, bool]:
    """Return which kind of thinking a mark belongs to, and whether it ends it."""
    if match["channel"]:
        return "channel", match["channel"].lower() == "final"
    if match["word"]:
        is_end = (match["edge"] or "").lower().startswith("end")
        return match["word"].lower(), bool(match["slash"]) or is_end
    return match[0].replace("/", ""), bool(match["kimi"] or match["mistral"])
