"""Those who are told: a web server and a mail server that keep what they get."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """A web server: what it was sent, and what it answers."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status == 200:
                    receiver.got.append(json.loads(body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server: ThreadingHTTPServer = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Its address, with a password, as apprise has it."""
        return f"json://me:hunter2secret@127.0.0.1:{self.server.server_port}/hook"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.got]


class Mailbox:
    """A mail server: the letters that it was given, as text."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        mailbox = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say(b"220 here")
                while line := self.rfile.readline():
                    word = line.split()[0].upper() if line.split() else b""
                    if word == b"DATA":
                        self._say(b"354 go on")
                        letter = b""
                        while (part := self.rfile.readline()) not in (b".\r\n", b""):
                            letter += part
                        mailbox.letters.append(letter.decode())
                    self._say(b"221 bye" if word == b"QUIT" else b"250 fine")

            def _say(self, text: bytes) -> None:
                self.wfile.write(text + b"\r\n")

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        """Its address, as apprise has it."""
        port = self.server.server_address[1]
        return f"mailto://127.0.0.1:{port}?smtp=127.0.0.1&mode=insecure&from=a@example.org&to=b@example.org"


@contextmanager
def receiving(*receivers: Webhook | Mailbox) -> Iterator[None]:
    """Has them listen."""
    threads = [threading.Thread(target=each.server.serve_forever) for each in receivers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for each in receivers:
            each.server.shutdown()
            each.server.server_close()
        for thread in threads:
            thread.join()
