"""HTTP for requests with prompts and keys: it goes nowhere else, and takes no endless reply."""

from functools import cache
from typing import Any

MAX_REPLY_BYTES = 64 << 20
"""Most bytes of a reply, decompressed: 32,000 tokens with 20 alternatives each take half of it."""
BODY_HEADERS = (b"content-encoding", b"content-length", b"transfer-encoding")
"""Headers of a body as it was sent, not of the one that was read."""


class ReplyTooLarge(Exception):
    """A reply of more than MAX_REPLY_BYTES, whatever its compression made it look like."""


def bounded_client() -> Any:
    """Return an HTTP client for `openai.AsyncOpenAI` that follows no redirect and reads at most
    MAX_REPLY_BYTES of a reply.

    A redirect would send the prompt to a host that the recipe does not name, and take its reply.
    """
    return _client_class()(follow_redirects=False)


@cache
def _client_class() -> Any:
    """Return the class: made here, for its base comes with the openai package, an extra."""
    from openai import DefaultAsyncHttpxClient

    class BoundedClient(DefaultAsyncHttpxClient):
        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            """Return the whole reply; raise ReplyTooLarge for one over the limit, errors' too."""
            response = await super().send(request, stream=True, **options)
            content = bytearray()
            try:
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_REPLY_BYTES:
                        raise ReplyTooLarge(f"a reply of more than {MAX_REPLY_BYTES >> 20} MiB")
            finally:
                await response.aclose()
            headers = response.headers.raw
            return type(response)(
                response.status_code,
                headers=[header for header in headers if header[0].lower() not in BODY_HEADERS],
                content=bytes(content),
                request=request,
                extensions=response.extensions,
            )

    return BoundedClient
