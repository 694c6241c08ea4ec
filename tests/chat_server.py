"""A chat endpoint on this machine that answers as a test tells it to."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What the server sends."""

    status: int = 200
    body: Any = None
    """An object sent as JSON, or the text itself."""
    headers: tuple[tuple[str, str], ...] = ()
    slow_s: float = 0.0
    """Waits so long before."""


class Asked(NamedTuple):
    """A request as it came in."""

    path: str
    key: str | None
    body: dict[str, Any]

    @property
    def question(self) -> str:
        """The last turn."""
        return self.body["messages"][-1]["content"]


class ChatServer(NamedTuple):
    """A running server."""

    url: str
    asked: list[Asked]
    """All requests, in the order in which they came."""


def completion(text: str | None, tokens_in: int = 3, tokens_out: int = 2) -> Answer:
    """A usual answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Answer(body={"choices": [choice], "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}})


@contextlib.contextmanager
def chat_server(answer: Callable[[Asked, int], Answer]) -> Iterator[ChatServer]:
    """A server whose answers are a function of the request and of how often its question has come before."""
    asked: list[Asked] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = Asked(
                self.path, self.headers.get("Authorization"), json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            )
            with lock:
                before = sum(other.question == request.question for other in asked)
                asked.append(request)
            sent = answer(request, before)
            time.sleep(sent.slow_s)
            body = (sent.body if isinstance(sent.body, str) else json.dumps(sent.body)).encode()
            with contextlib.suppress(ConnectionError):
                self.send_response(sent.status)
                for name, value in (*sent.headers, ("Content-Length", str(len(body)))):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield ChatServer(f"http://127.0.0.1:{server.server_port}/v1", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
