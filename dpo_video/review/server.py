"""The review page's server: on 127.0.0.1, behind a token in the address, for this page alone.

Candidates and captions are hostile input: they go out as JSON and become text nodes; the policy of
the page runs no script but its own file. Clips are named by a hash that this review knows, never by
a path. A request with another Host (DNS rebinding), from another origin, or with another token is
refused before anything is looked up.
"""

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dpo_video.core import strict_json
from dpo_video.core.names import PACKAGE
from dpo_video.core.page import render_page
from dpo_video.core.report import ReportVerdict
from dpo_video.review.session import REASONS, RefusedRequest, ReviewSession, annotator_name

LARGEST_BODY = 65_536
SCRIPTS = {"parts.js": "pages/parts.js", "review.js": "review/review.js"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
SUFFIXES = {".mp4": "video/mp4", ".jpg": "image/jpeg"}


def review_app(session: ReviewSession, *, token: str, port: int, annotator: str) -> ASGIApp:
    """Return the page's server as an ASGI application.

    Args:
        token: first part of every path.
        port: that the server listens on, for the Host that is expected.
        annotator: who votes where the address names nobody.
    """
    page = _Page(session, annotator)
    routes = [
        Route("/{token}/", page.html),
        Route("/{token}/style.css", page.style),
        Route("/{token}/scripts/{name}", page.script),
        Route("/{token}/next", page.next_pair),
        Route("/{token}/vote", page.vote, methods=["POST"]),
        Route("/{token}/undo", page.undo, methods=["POST"]),
        Route("/{token}/clips/{name}", page.clip),
    ]
    app = Starlette(routes=routes, exception_handlers={RefusedRequest: _refused})
    return _Guard(app, token=token, hosts={f"127.0.0.1:{port}", f"localhost:{port}"})


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=409)


class _Page:
    """What the routes answer."""

    def __init__(self, session: ReviewSession, annotator: str) -> None:
        self.session = session
        self.annotator = annotator

    async def html(self, request: Request) -> Response:
        run = self.session.run.folder.name
        text = render_page(
            "review/review.html.jinja",
            title=f"Review of {run}",
            annotator=self._annotator(request),
            reasons=REASONS,
            verdict=ReportVerdict(text="Which answer fits the clip better?", mood="good"),
        )
        return Response(text, media_type="text/html")

    async def style(self, request: Request) -> Response:
        names = ("core/page.css", "pages/gallery.css", "review/review.css")
        text = "\n".join((PACKAGE / name).read_text(encoding="utf-8") for name in names)
        return Response(text, media_type="text/css")

    async def script(self, request: Request) -> Response:
        name = SCRIPTS.get(request.path_params["name"])
        if name is None:
            return PlainTextResponse("no such script", status_code=404)
        text = (PACKAGE / name).read_text(encoding="utf-8")
        return Response(text, media_type="text/javascript")

    async def next_pair(self, request: Request) -> Response:
        return await _answer(self.session.next_pair, self._annotator(request))

    async def vote(self, request: Request) -> Response:
        content = await _content(request)
        return await _answer(self.session.vote, self._annotator(request), content)

    async def undo(self, request: Request) -> Response:
        await _content(request)
        return await _answer(self.session.undo, self._annotator(request))

    async def clip(self, request: Request) -> Response:
        """Answer `<hash>.json` with what is known of a clip, `<hash>.mp4` and the pictures with the
        file; parts of it by its ranges, so that a browser can seek.
        """
        name = Path(request.path_params["name"])
        stem = name.stem.removesuffix("-strip")
        row = await run_in_threadpool(self.session.clip, stem)
        if row is None:
            return PlainTextResponse("no such clip", status_code=404)
        if name.suffix == ".json":
            return JSONResponse(row)
        path = self.session.clips_folder / name.name
        if "error" in row or name.suffix not in SUFFIXES or not path.is_file():
            return PlainTextResponse("no such clip", status_code=404)
        return FileResponse(path, media_type=SUFFIXES[name.suffix])

    def _annotator(self, request: Request) -> str:
        return annotator_name(request.query_params.get("annotator") or self.annotator)


async def _answer(function: Callable[..., dict[str, Any]], *arguments: Any) -> Response:
    return JSONResponse(await run_in_threadpool(function, *arguments))


async def _content(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request that only a script of the page can have sent."""
    if request.headers.get("content-type") != "application/json":
        raise RefusedRequest("a vote is JSON")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise RefusedRequest("too long")
    try:
        content = strict_json.loads(body)
    except ValueError as error:
        raise RefusedRequest("a vote is JSON") from error
    if not isinstance(content, dict):
        raise RefusedRequest("a vote is a JSON object")
    return content


class _Guard:
    """Refuses what does not come from the page itself, and adds the headers that bind the page."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: set[str]) -> None:
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        why = self._why_refused(Request(scope))
        if why:
            refusal = PlainTextResponse(why, status_code=403)
            await refusal(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def _why_refused(self, request: Request) -> str:
        """Return why a request is not answered, or an empty string."""
        headers = request.headers
        if headers.get("host") not in self.hosts:
            return "this page is on 127.0.0.1 only"
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.hosts}:
            return "requests of other pages are not answered"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "requests of other pages are not answered; paste the address yourself"
        token = request.url.path.split("/")[1]
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return "the address is not complete: take it from where dpo-video review was started"
        return ""
