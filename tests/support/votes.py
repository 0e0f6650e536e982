"""A vote between two answers."""

from dpo_video.core.records import Vote
from dpo_video.data.votes import texts_hash

VOTE = Vote(
    id="1",
    sample_id="s",
    left_id="s#0",
    right_id="s#1",
    texts=texts_hash("a", "b"),
    choice="A",
    annotator="ann",
    at="2026-01-01T00:00:00+00:00",
)
