"""A file host that counts what it sends: of sparse files, larger than anyone would download."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class SparseFile:
    """`start`, then zeros up to `size` bytes."""

    start: bytes
    size: int

    def read(self, first: int, last: int) -> bytes:
        return self.start[first : last + 1].ljust(last + 1 - first, b"\0")


@dataclass
class SparseSite:
    """Files by path. ranges: whether it honours range requests."""

    files: dict[str, SparseFile] = field(default_factory=dict)
    ranges: bool = True
    sent: int = 0
    url: str = ""


@contextmanager
def sparse_site(files: dict[str, SparseFile]) -> Iterator[SparseSite]:
    """Serve them on a free port."""
    site = SparseSite(files)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            file = site.files.get(self.path.partition("?")[0])
            if file is None:
                self.send_error(404)
                return
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
            first, last = (int(asked[1]), min(int(asked[2]), file.size - 1)) if asked else (0, file.size - 1)
            if asked and site.ranges:
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{file.size}")
            else:
                first, last = 0, file.size - 1
                self.send_response(200)
            self.send_header(
                "Content-Type", "application/json" if self.path.startswith("/api/") else "binary/octet-stream"
            )
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            try:
                for at in range(first, last + 1, 1 << 16):
                    chunk = file.read(at, min(at + (1 << 16) - 1, last))
                    self.wfile.write(chunk)
                    site.sent += len(chunk)
            except OSError:
                self.close_connection = True  # the client had enough

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
