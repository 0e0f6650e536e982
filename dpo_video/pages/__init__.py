"""Pages that people look at: the report of a run, and what it shares with the review page."""
