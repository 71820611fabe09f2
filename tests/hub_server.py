"""A server on this machine that answers huggingface_hub as the Hugging Face hub does, with one file in one dataset repository."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RESOLVE = "/datasets/robomimic/robomimic_datasets/resolve/main/"
_STORAGE = "/storage/"


@dataclass
class Hub:
    """What the server says and does.

    Attributes:
        filename: of the only file.
        content: of it, as it is sent.
        sha256: of it, as it is announced.
        breaks_after: bytes of the first answer with content, after which the connection breaks.
        storage: address that downloads are sent on to; None for the right one.
        url: address of the server.
        ranges: of which bytes the content was asked for.
    """

    filename: str
    content: bytes
    sha256: str = ""
    breaks_after: int | None = None
    storage: str | None = None
    url: str = ""
    ranges: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sha256 = self.sha256 or hashlib.sha256(self.content).hexdigest()


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

    def _answer(self, with_content: bool) -> None:
        hub = self.served
        if self.path == _RESOLVE + hub.filename:
            self.send_response(302)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{hub.sha256}"')
            self.send_header("X-Linked-Size", str(len(hub.content)))
            self.send_header("ETag", '"etag of the pointer"')
            # Of another host, as far as huggingface_hub can tell: what the hub stores is not on its own either.
            self.send_header("Location", hub.storage or hub.url.replace("127.0.0.1", "localhost") + _STORAGE + hub.filename)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == _STORAGE + hub.filename:
            self._send_content(hub, with_content)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send_content(self, hub: Hub, with_content: bool) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted.group(1)) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(hub.content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}")
        self.end_headers()
        if with_content:
            hub.ranges.append(self.headers.get("Range", ""))
            end, hub.breaks_after = hub.breaks_after, None
            self.wfile.write(hub.content[start:end])
            self.close_connection = end is not None

    def log_message(self, *_: object) -> None:
        pass
