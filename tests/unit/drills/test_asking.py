"""How a drill tells streams apart: completed, ended by an error event, refused, or cut off without a word."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx2
import pytest

from serve_app.drills.acting import Actor
from serve_app.drills.asking import Crowd, Stream, ask

WORD = 'data: {"choices":[{"text":" one"}]}\n\n'
ENDINGS = {
    "whole": (200, f": keep-alive\n\n{WORD}data: [DONE]\n\n"),
    "broken": (200, WORD + 'data: {"error":{"message":"x","code":"upstream_error"}}\n\n'),
    "broken with a regular end": (200, WORD + 'data: {"error":{"code":"timeout"}}\n\ndata: [DONE]\n\n'),
    "cut": (200, WORD),
    "refused": (503, json.dumps({"error": {"code": "server_is_overloaded"}})),
}


class Handler(BaseHTTPRequestHandler):
    """Ends each answer by closing the connection, as a server that dies does."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, text = ENDINGS.get(body["model"], (200, "{}"))
        self.send_response(status)
        self.send_header("x-gatehouse-route-id", "rt_1")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def agent(socket_enabled: None) -> Iterator[Actor]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    with httpx2.Client(base_url=f"http://127.0.0.1:{server.server_address[1]}", timeout=30) as http:
        yield Actor(http, "gh-key")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("model", "ending", "code"),
    [
        ("whole", "completed", ""),
        ("broken", "error", "upstream_error"),
        ("broken with a regular end", "error", "timeout"),
        ("cut", "truncated", ""),
        ("refused", "refused", "server_is_overloaded"),
    ],
)
def test_the_end_of_a_stream_is_told(agent: Actor, model: str, ending: str, code: str) -> None:
    crowd = Crowd(agent, model, 4, 3).start()
    found: list[Stream] = [*crowd.results()]
    assert [(each.ending, each.code) for each in found] == [(ending, code)] * 3
    assert crowd.answered == 3
    assert all((each.first_s is None) == (model == "refused") for each in found)


def test_a_server_that_is_away_refuses_nothing_and_completes_nothing() -> None:
    with httpx2.Client(base_url="http://127.0.0.1:9") as http:
        (stream,) = Crowd(Actor(http, "gh-key"), "whole", 4, 1).start().results()
        reply = ask(Actor(http, "gh-key"), "whole", "x", 1)
    assert (stream.ending, stream.first_s) == ("truncated", None)
    assert reply.status == 0


def test_an_answer_that_is_none_is_no_answer(agent: Actor) -> None:
    assert ask(agent, "nothing", "x", 1).status == 0
