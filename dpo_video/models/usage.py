"""What reading prompts and holding their keys and values took."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class PromptUsage:
    """Counts over batches of answers."""

    tokens_run: int = 0
    """Prompt tokens that went through the language model."""
    tokens_alone: int = 0
    """What they would have been, had each answer's prompt been read for itself."""
    peak_cache: int = 0
    """Most bytes of keys and values held at a time."""

    def add_prefixes(self, *, run: int, alone: int) -> None:
        self.tokens_run += run
        self.tokens_alone += alone

    def see_cache(self, num_bytes: int) -> None:
        self.peak_cache = max(self.peak_cache, num_bytes)
