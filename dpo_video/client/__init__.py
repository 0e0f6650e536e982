"""Requests to OpenAI-compatible servers: one server, several, and how many at once."""
