"""A server on this machine that answers huggingface_hub as the Hugging Face hub does, with the files of some repositories."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_STORAGE = "/storage/"
_INFO = re.compile(r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)(?P<what>/revision|/tree|)(/[^/]+)?/?")


@dataclass
class Hub:
    """What the server says and does.

    Attributes:
        repos: "OWNER/NAME" of a repository of a model, "datasets/OWNER/NAME" of one of a dataset -> path of a file -> its content.
        gated: those of them that let nobody in.
        private: those that only their owner sees.
        sha256: of a content, where another one is announced for its path.
        breaks_after: bytes of the first answer with content, after which the connection breaks.
        storage: address that downloads are sent on to; None for the right one.
        url: address of the server.
        ranges: of which bytes contents were asked for.
        fetched: paths of contents that were asked for.
        rights: of whoever has a token: to "read", to "create" repositories, or to "write" to them, too.
    """

    repos: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    sha256: dict[str, str] = field(default_factory=dict)
    breaks_after: int | None = None
    storage: str | None = None
    url: str = ""
    ranges: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    rights: str = "write"

    def commit(self, repo: str) -> str:
        """Return the id of what a repository holds now."""
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()

    def announced(self, repo: str, path: str) -> str:
        """Return the sha256 that the server names for a file."""
        return self.sha256.get(path) or hashlib.sha256(self.repos[repo][path]).hexdigest()


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Let the hub answer at `hub.url` while the block runs."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_POST(self) -> None:
        """Take a new repository, or a commit to one, whose files come in it: the hub may ask for them so, whatever their size."""
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []}, with_content=True)
        elif self.served.rights not in ("write", "create" if path == "/api/repos/create" else ""):
            self._refuse(403, "")
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization') or 'lab'}/{wanted['name']}"
            self.served.repos.setdefault(repo, {})
            self.served.private |= {repo} if wanted.get("private") or wanted.get("visibility") == "private" else set()
            self._send_json({"url": f"{self.served.url}/{repo}", "name": repo, "id": repo}, with_content=True)
        else:
            _, _, _, owner, name, what, _ = path.split("/")
            self._send_json(getattr(self, f"_{what}")(f"{owner}/{name}", body), with_content=True)

    def do_DELETE(self) -> None:
        """Delete a repository."""
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        del self.served.repos[f"{wanted.get('organization') or 'lab'}/{wanted['name']}"]
        self._send_json({}, with_content=True)

    def _preupload(self, repo: str, body: bytes) -> object:
        return {"files": [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]}

    def _commit(self, repo: str, body: bytes) -> object:
        added = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
        self.served.repos[repo] |= {file["path"]: base64.b64decode(file["content"]) for file in added}
        return {"success": True, "commitOid": self.served.commit(repo), "commitUrl": f"{self.served.url}/{repo}/commit/main"}

    def _answer(self, with_content: bool) -> None:
        hub, path = self.served, urlsplit(self.path).path
        if path == "/api/whoami-v2":
            self._send_json({"type": "user", "name": "lab", "auth": {"accessToken": {"role": hub.rights}}}, with_content)
        elif path.startswith(_STORAGE):
            self._send_content(path.removeprefix(_STORAGE), with_content)
        elif asked := _INFO.fullmatch(path):
            repo = f"datasets/{asked['name']}" if asked["kind"] == "datasets" else asked["name"]
            if self._lets_in(repo):
                self._send_json(self._tree(repo) if asked["what"] == "/tree" else self._info(repo, asked["name"]), with_content)
        else:
            repo, _, rest = path.lstrip("/").partition("/resolve/")
            filename = rest.partition("/")[2]
            if not self._lets_in(repo):
                return
            if filename not in hub.repos[repo]:
                self._refuse(404, "EntryNotFound")
                return
            self.send_response(302)
            self.send_header("X-Repo-Commit", hub.commit(repo))
            self.send_header("X-Linked-Etag", f'"{hub.announced(repo, filename)}"')
            self.send_header("X-Linked-Size", str(len(hub.repos[repo][filename])))
            self.send_header("ETag", '"etag of the pointer"')
            # Of another host, as far as huggingface_hub can tell: what the hub stores is not on its own either.
            self.send_header("Location", hub.storage or f"{hub.url.replace('127.0.0.1', 'localhost')}{_STORAGE}{repo}/resolve/{filename}")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _lets_in(self, repo: str) -> bool:
        if repo in self.served.gated:
            self._refuse(403, "GatedRepo")
        elif repo not in self.served.repos:
            self._refuse(401, "RepoNotFound")
        return repo in self.served.repos.keys() - self.served.gated

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _info(self, repo: str, name: str) -> object:
        siblings = [{"rfilename": path} for path in self.served.repos[repo]]
        about = {"tags": [], "private": repo in self.served.private, "downloads": 0, "likes": 0}
        return {"id": name, "sha": self.served.commit(repo), "siblings": siblings, **about}

    def _tree(self, repo: str) -> object:
        """List the files as large ones, which have a sha256."""
        return [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest(),
             "lfs": {"oid": self.served.announced(repo, path), "size": len(content), "pointerSize": 130}}
            for path, content in self.served.repos[repo].items()
        ]  # fmt: skip

    def _send_json(self, answer: object, with_content: bool) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_content:
            self.wfile.write(body)

    def _send_content(self, place: str, with_content: bool) -> None:
        hub = self.served
        repo, _, filename = place.partition("/resolve/")
        content = hub.repos[repo][filename]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted.group(1)) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_content:
            hub.ranges.append(self.headers.get("Range", ""))
            hub.fetched.append(filename)
            end, hub.breaks_after = hub.breaks_after, None
            self.wfile.write(content[start:end])
            self.close_connection = end is not None

    def log_message(self, *_: object) -> None:
        pass
