"""What tests against a judge server share."""

import pytest

from dpo_video.client import pool as scheduler


@pytest.fixture
def short_backoff(monkeypatch):
    monkeypatch.setattr(scheduler, "BACKOFF_SECONDS", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
