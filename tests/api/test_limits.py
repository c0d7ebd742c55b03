"""Rate-limit headers: on answers and on refusals, in the words of each dialect."""

from datetime import UTC, datetime

import pytest

from deployments.errors import QuotaExceeded
from deployments.ports import Dialect, Limit, LimitKind
from serve_app.api.errors import Caller, told
from serve_app.api.limits import limit_headers
from tests.api.test_generate import HELLO, post
from tests.fakes import ScriptedEngine, World, json_reply

NOW = datetime(2026, 12, 1, tzinfo=UTC)
LIMITS = [Limit(LimitKind.REQUESTS, 64, 63, 0), Limit(LimitKind.TOKENS, 1000, 10, 361)]


@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.COMPLETIONS, Dialect.RESPONSES, Dialect.EMBEDDINGS])
def test_openai_clients_read_durations(dialect: Dialect) -> None:
    assert limit_headers(LIMITS, dialect, NOW) == {
        "x-ratelimit-limit-requests": "64",
        "x-ratelimit-remaining-requests": "63",
        "x-ratelimit-reset-requests": "0s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "10",
        "x-ratelimit-reset-tokens": "6m1s",
    }


def test_anthropics_clients_read_moments() -> None:
    assert limit_headers(LIMITS, Dialect.MESSAGES, NOW) == {
        "anthropic-ratelimit-requests-limit": "64",
        "anthropic-ratelimit-requests-remaining": "63",
        "anthropic-ratelimit-requests-reset": "2026-12-01T00:00:00Z",
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "10",
        "anthropic-ratelimit-tokens-reset": "2026-12-01T00:06:01Z",
    }


async def test_an_answer_says_how_much_is_left() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    reply = await post(world)
    limit, left = (int(reply.headers[f"x-ratelimit-{each}-requests"]) for each in ("limit", "remaining"))
    assert (limit, left) == (world.ledger.max_requests, world.ledger.max_requests - 1)


async def test_a_refusal_says_that_nothing_is_left() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    world.ledger.full = True
    reply = await post(world, HELLO)
    assert reply.status_code == 429
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert reply.headers["retry-after"] == "1"


def test_a_refusal_without_a_number_has_no_such_headers() -> None:
    assert not [name for name in told(QuotaExceeded("x"), Caller()).headers if name.startswith("x-ratelimit")]
