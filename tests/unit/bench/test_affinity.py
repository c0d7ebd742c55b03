"""Sessions, hit rates, configurations, and what a scale event moves on Ray's hash ring."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import yaml

from serve_app.bench.affinity import (
    AffinityPlan,
    Server,
    Turn,
    measure,
    next_message,
    opening,
    serve_document,
    summarise,
)
from serve_app.bench.load import BenchRefused
from serve_app.config import ROOT, parse_config


def test_every_session_opens_differently_and_about_as_long_as_asked() -> None:
    texts = [opening(random.Random(f"1:{number}"), number, 500) for number in range(20)]
    assert len({text[:12] for text in texts}) == 20
    assert all(500 <= len(text.split()) <= 502 for text in texts)
    assert texts[3] == opening(random.Random("1:3"), 3, 500)
    assert len(next_message(random.Random(1)).split()) == 40


def test_the_hit_rate_counts_tokens_of_later_turns_only() -> None:
    turns = [
        Turn(0, 1, 1000, 0, 0.9),
        Turn(0, 2, 1000, 900, 0.1),
        Turn(0, 3, 1100, 0, 0.5),
        Turn(1, 1, 1000, 500, 0.7),
        Turn(1, 2, 900, 600, 0.3),
        Turn(1, 3, 0, 0, None),
    ]
    run = summarise("x", turns)
    assert (run.turns, run.failed, run.missed) == (3, 1, 1)
    assert (run.prompt_tokens, run.cached_tokens) == (3000, 1500)
    assert run.hit_rate == 0.5
    assert run.ttft_p50_ms == pytest.approx(300)
    assert run.first_ttft_p50_ms == pytest.approx(800)
    assert run.hit_rate_by_turn == {2: pytest.approx(1500 / 1900), 3: 0.0}
    assert run.to_json()["hit_rate"] == 0.5
    assert summarise("none", []).hit_rate == 0.0


@pytest.mark.parametrize("affinity", [True, False])
def test_both_configurations_are_valid_and_differ_in_affinity_only(affinity: bool) -> None:
    base = yaml.safe_load((ROOT / "configs" / "serve.local.yaml").read_text())
    before = json.dumps(base)
    document = serve_document(base, port=1234, state_dir="/s", replicas=2, affinity=affinity)
    assert json.dumps(base) == before
    assert document["http_options"]["port"] == 1234
    app = parse_config(document["applications"][0]["args"], "test")
    (model,) = app.models
    assert (model.engine.model, model.engine.replicas, model.engine.affinity) == ("demo-20b", 2, affinity)
    assert app.state_dir == "/s"


@asynccontextmanager
async def cache_of(blocks: int) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A server that has seen every prompt but the last `blocks` characters, and what it was asked."""
    asked: list[dict[str, Any]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                session = head.split("x-session-id:")[1].split("\r\n")[0].strip()
                asked.append(body | {"session": session})
                size = len(json.dumps(body["messages"]))
                usage = {
                    "prompt_tokens": size,
                    "completion_tokens": 1,
                    "prompt_tokens_details": {"cached_tokens": max(0, size - blocks)},
                }
                events = [
                    {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]},
                    {"choices": [], "usage": usage},
                ]
                data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
                data += b"data: [DONE]\n\n"
                kind = b"content-type: text/event-stream\r\n"
                writer.write(b"HTTP/1.1 200 OK\r\n" + kind + b"content-length: %d\r\n\r\n" % len(data) + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_conversations_grow_by_a_turn_and_keep_their_session() -> None:
    plan = AffinityPlan(sessions=3, turns=4, prefix_tokens=50, concurrency=2)
    async with cache_of(100) as (url, asked):
        run = await measure(url, "k", plan, "here")
    assert (run.turns, run.failed, run.missed) == (9, 0, 0)
    assert 0 < run.hit_rate < 1
    by_session: dict[str, list[Any]] = {}
    for body in asked:
        by_session.setdefault(body["session"], []).append(body["messages"])
    assert len(by_session) == 3
    for conversation in by_session.values():
        assert [len(messages) for messages in conversation] == [1, 3, 5, 7]
        for shorter, longer in zip(conversation, conversation[1:], strict=False):
            assert longer[: len(shorter)] == shorter


async def test_other_machines_and_silent_servers_are_refused() -> None:
    with pytest.raises(BenchRefused):
        await measure("http://10.0.0.1:8000", "k", AffinityPlan(), "there")
    async with cache_of(0) as (url, _):
        pass
    with pytest.raises(BenchRefused):
        await measure(url, "k", AffinityPlan(sessions=1, turns=2, prefix_tokens=16), "gone")


def test_a_server_that_does_not_start_says_why(tmp_path: Any) -> None:
    config = tmp_path / "missing.yaml"
    with pytest.raises(BenchRefused, match="did not start"):
        Server(config, 1, tmp_path, {"PATH": "/usr/bin:/bin"}).__enter__()
    assert "missing.yaml" in (tmp_path / "server.log").read_text()


def owners(replicas: int, sessions: list[str]) -> dict[str, str]:
    """Which replica the ring of Ray's own router gives each session to."""
    router_module = pytest.importorskip("ray.serve.experimental.consistent_hash_router")
    from ray.serve._private.common import DeploymentID, ReplicaID

    # Without its constructor, which wants a running Serve: only the ring is under test.
    ring = object.__new__(router_module.ConsistentHashRouter)
    ring._deployment_id = deployment = DeploymentID("Engine")
    ring._num_virtual_nodes = router_module.DEFAULT_NUM_VIRTUAL_NODES
    ring._num_fallback_replicas = router_module.DEFAULT_NUM_FALLBACK_REPLICAS
    ring._rebuild_ring(frozenset(ReplicaID(f"replica-{number}", deployment) for number in range(replicas)))
    return {session: ring._lookup_ranked_replicas(session)[0].unique_id for session in sessions}


@pytest.mark.parametrize("replicas", [1, 2, 4, 8])
def test_a_scale_event_moves_only_the_sessions_it_must(replicas: int) -> None:
    rng = random.Random(7)
    sessions = [f"{rng.getrandbits(128):032x}" for _ in range(4000)]
    before, after = owners(replicas, sessions), owners(replicas + 1, sessions)
    moved = [session for session in sessions if before[session] != after[session]]
    assert {after[session] for session in moved} == {f"replica-{replicas}"}  # to the new one, and to no other
    assert 0.6 / (replicas + 1) < len(moved) / len(sessions) < 1.5 / (replicas + 1)
    shares = [list(after.values()).count(replica) / len(sessions) for replica in set(after.values())]
    assert max(shares) < 1.6 / (replicas + 1)
