"""The part of the hub's HTTP API that a push talks to, on loopback: repositories are dicts."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_right"
LFS_ENDINGS = (".safetensors", ".mp4")


@dataclass
class HubRepo:
    """One repository: the files of its last commit."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class HubServer:
    """What was asked, and what is there."""

    url: str = ""
    repos: dict[str, HubRepo] = field(default_factory=dict)
    """By kind and name: `models/lab/x`."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Uploaded by LFS, by sha256."""
    requests: list[str] = field(default_factory=list)
    validated: list[str] = field(default_factory=list)
    """Cards that were sent to be checked."""


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve an empty hub."""
    hub = HubServer()

    class Handler(HubHandler):
        server_state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class HubHandler(BaseHTTPRequestHandler):
    """Answers as the hub does, as far as `huggingface_hub` asks for one commit."""

    server_state: HubServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server_state.requests.append(f"GET {path}")
        if not self.is_allowed():
            return
        if path == "/api/whoami-v2":
            self.reply({"type": "user", "name": "lab", "auth": {"accessToken": {"role": "write"}}})
            return
        name = path.removeprefix("/api/").removesuffix("/revision/main")
        repo = self.server_state.repos.get(name)
        if repo is None:
            self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": file} for file in repo.files]
        self.reply(
            {
                "id": name.partition("/")[2],
                "private": repo.private,
                "sha": "a" * 40,
                "siblings": siblings,
            }
        )

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server_state.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            self.server_state.validated.append(json.loads(body)["content"])
            self.reply({"errors": [], "warnings": []})
        elif not self.is_allowed():
            return
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path.endswith("/preupload/main"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_ENDINGS) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **row,
                    "actions": {"upload": {"href": f"{self.server_state.url}/blob/{row['oid']}"}},
                }
                for row in json.loads(body)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            self.commit(path.removeprefix("/api/").removesuffix("/commit/main"), body)
        else:
            self.reply({"error": f"no {path}"}, 404)

    def do_PUT(self) -> None:
        self.server_state.requests.append("PUT blob")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server_state.blobs[oid] = content
        self.reply({})

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'lab'}/{wanted['name']}"
        kind = f"{wanted.get('type') or 'model'}s"
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.server_state.repos[f"{kind}/{name}"] = HubRepo(private=bool(private))
        self.reply({"url": f"{self.server_state.url}/{name}", "name": name})

    def commit(self, name: str, body: bytes) -> None:
        repo = self.server_state.repos[name]
        for line in body.decode().splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                repo.files[value["path"]] = self.server_state.blobs[value["oid"]]
        url = f"{self.server_state.url}/{name}/commit/{'b' * 40}"
        self.reply({"success": True, "commitOid": "b" * 40, "commitUrl": url, "hookOutput": ""})

    def is_allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.reply({"error": "Invalid username or password."}, 401)
        return False

    def reply(self, row: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(row).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass
