"""A small synthetic world of moving shapes, with tiny models, for the quickstart and tests."""
