"""A folder served over HTTP from a thread, as well or as badly as a test wants it."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class Folder(ThreadingHTTPServer):
    """Serves a folder on a free port of this machine.

    Args:
        folder: what it serves.
        ranges: it gives parts of files.
        delay: seconds before each answer.
        lengths: answers say how long they are, so that one that was cut off shows.
        cut: of so many answers with a body one is cut off in the middle; 0 for none.
        refuse: status that it answers every request with instead.

    Attributes:
        address: of the folder.
        sent: bytes of bodies by file name.
        answers: how many had a body.
        closed: it answers no more, on connections that are open either.
    """

    daemon_threads = True

    def __init__(
        self,
        folder: Path,
        *,
        ranges: bool = True,
        lengths: bool = True,
        delay: float = 0,
        cut: int = 0,
        refuse: int = 0,
    ) -> None:
        self.folder, self.ranges, self.delay, self.cut = folder, ranges, delay, cut
        self.lengths, self.refuse, self.closed = lengths, refuse, False
        self.sent: Counter[str] = Counter()
        self.answers = 0
        super().__init__(("127.0.0.1", 0), _Answer)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Folder
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server = self.server
        time.sleep(server.delay)
        path = server.folder / self.path.lstrip("/")
        if server.closed:
            self.close_connection = True
            return
        if server.refuse or not path.is_file():
            self.send_response(server.refuse or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part and server.ranges:
            start, end = int(part[1]), min(int(part[2]) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            data = data[start:end]
        else:
            self.send_response(200)
        if server.lengths or not body:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Connection", "close")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()
        if not body:
            return
        server.answers += 1
        if server.cut and server.answers % server.cut == 0:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        server.sent[path.name] += len(data)
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serve(folder: Path, **how: object) -> Iterator[Folder]:
    """A `Folder` that answers until the end of the block."""
    server = Folder(folder, **how)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closed = True
        server.shutdown()
        server.server_close()
        thread.join()
