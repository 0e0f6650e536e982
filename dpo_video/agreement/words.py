"""English words that probes swap: every word of a group excludes the others, so a swap makes a true sentence false.

The lists are short on purpose. A word is in them only where a swap is safe: `orange`, `gold` and `silver` are also
things, `one` is as often a pronoun, a `person` may be a man, a `child` a girl, and a `girl` a young woman; the first
five are not swapped, the last two not for each other.
"""

COLOURS = ("red", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray", "turquoise")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

ACTORS: tuple[dict[str, str], ...] = (
    {"man": "men", "woman": "women"}, {"boy": "boys", "girl": "girls"},
    {"dog": "dogs", "cat": "cats", "horse": "horses", "cow": "cows", "sheep": "sheep", "bird": "birds",
     "monkey": "monkeys", "elephant": "elephants", "rabbit": "rabbits", "bear": "bears", "lion": "lions"},
    {"car": "cars", "bus": "buses", "truck": "trucks", "motorcycle": "motorcycles", "bicycle": "bicycles",
     "train": "trains", "boat": "boats", "airplane": "airplanes", "helicopter": "helicopters"},
    {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses", "star": "stars"},
)
"""Who or what acts: groups of singular and plural; a swap stays in its group."""

DETERMINERS = ("a", "an", "the", "another", "this", "that", "each", "his", "her", "their")
"""A singular actor is swapped behind one of these, with at most two words between: `cross` is also a verb."""
LINKS = ("and", "at", "by", "from", "in", "into", "of", "on", "or", "the", "to", "who", "with")
"""What those words are not, as the determiner then belongs to another noun."""

DIRECTIONS: tuple[tuple[str, str], ...] = (
    (r"(?<=\bthe )left\b(?! of the video)", r"(?<=\bthe )right\b(?! of the video)"),
    (r"\bleft(?= (?:hand|side|arm|leg|foot))", r"\bright(?= (?:hand|side|arm|leg|foot))"),
    (r"(?<=\bmoves )up\b", r"(?<=\bmoves )down\b"), (r"(?<=\bmoving )up\b", r"(?<=\bmoving )down\b"),
    (r"(?<=\bgoes )up\b", r"(?<=\bgoes )down\b"), (r"(?<=\blooks )up\b", r"(?<=\blooks )down\b"),
    (r"(?<=\bwalks )up\b", r"(?<=\bwalks )down\b"), (r"(?<=\bruns )up\b", r"(?<=\bruns )down\b"),
    (r"\bupwards?\b", r"\bdownwards?\b"), (r"\bforwards?\b", r"\bbackwards?\b"), (r"\babove\b", r"\bbelow\b"),
    (r"\bclockwise\b", r"\bcounterclockwise\b"), (r"\bin front of\b", r"\bbehind\b"),
    (r"\binside\b", r"\boutside\b"), (r"\binto\b", r"\bout of\b"), (r"\bopens\b", r"\bcloses\b"),
    (r"\bopening the\b", r"\bclosing the\b"), (r"\bpicks up\b", r"\bputs down\b"),
    (r"(?<=\bthe )top\b", r"(?<=\bthe )bottom\b"),
)
"""Where to, in pairs of patterns; what one matches is replaced by the plain words of the other."""

ORDER: tuple[tuple[str, str], ...] = (
    (r"(?<!the day )(?<!standing )(?<!stands )\bbefore\b(?! the (?:camera|mirror|audience))",
     r"(?<!look )(?<!looks )(?<!looking )(?<!named )(?<!one )\bafter\b(?! (?:all|that|this|another))"),
    (r"\bat the (?:beginning|start)\b", r"\bat the end\b"), (r"\bin the beginning\b", r"\bin the end\b"),
    (r"\b(?:starts|begins) (?=by|with)", r"\bends (?=by|with)"), (r"\bappears first\b", r"\bappears last\b"),
    (r"\bat first\b", r"\bat last\b"), (r"\bthe first to\b", r"\bthe last to\b"),
)
"""When, in pairs of patterns, for one sentence; two sentences in a row change places where a SEQUEL joins them."""

SEQUELS = ("Then", "Later", "After that", "Afterwards", "Afterward", "Next", "Finally", "Eventually", "Subsequently",
           "Shortly after", "Moments later", "A moment later")
"""What a sentence begins with that tells what happens next."""

NOT_EVENTS = r"(?i)(?:(?:the|this) (?:clip|video|scene|footage|camera|image|frame)\b|we see\b|overall\b|throughout\b)"
"""How sentences begin that tell of the whole clip: to move them changes nothing."""

NEGATIONS: tuple[tuple[str, str], ...] = (
    (r"\b(is|are|was|were|can|could|does|do|did) not (?!only\b)", r"\1 "),
    (r"\b([Tt]here (?:is|are)) no ", r"\1 a "), (r"\b([Tt]here (?:is|was)) (?:a|an|another|one) ", r"\1 no "),
    (r"\b([Tt]here (?:are|were)) (?:two|three|four|five|some|several|many) ", r"\1 no "),
    (r"\b(has|have|had|holds|wears|carries) (?:a|an) ", r"\1 no "),
    (r"\b(is|are|was|were|can|could) (?!not\b|no\b|also\b|then\b|now\b)", r"\1 not "),
)
"""Patterns and what they become, the first that matches; a sentence without a form of these verbs offers none."""

NEGATIVES = r"(?i)\b(?:nothing|nobody|never|none|neither|nor|without|hardly)\b"
"""Sentences that are negative in another way are left alone."""
