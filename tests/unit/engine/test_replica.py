import json
import pickle
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from deployments.clock import FixedClock
from deployments.engine.bridge import AsgiBridge
from deployments.engine.options import EngineSettings
from deployments.engine.replica import CoreLoad, EngineReplica, ProgressWatch, salted, without_seed
from deployments.engine.settings import FlushSettings
from deployments.errors import EngineFailed
from deployments.ports import EngineCall, EngineItem, EngineStart, RequestId, SessionId

SETTINGS = EngineSettings(model="demo-20b", revision="r1", source="x", stall_s=60)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    names = sorted(f"{name.decode()}={value.decode()}" for name, value in scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": ";".join(names).encode(), "more_body": False})


@dataclass
class FakeCore:
    app: Any = echo
    died: str | None = None
    unfinished: int = 0
    step: int = 0
    max_model_len: int = 2048
    seats: int = 4
    stopped: bool = False
    bridge: AsgiBridge = field(init=False)

    def __post_init__(self) -> None:
        self.bridge = AsgiBridge(self.app, FlushSettings(few_ms=0))

    def failure(self) -> str | None:
        return self.died

    def load(self) -> CoreLoad:
        return CoreLoad(self.unfinished, self.unfinished, 0, 7, 0.5)

    def steps(self) -> int:
        return self.step

    def pids(self) -> tuple[int, ...]:
        return (4711,)

    def shutdown(self) -> None:
        self.stopped = True


def replica(core: FakeCore, clock: FixedClock | None = None) -> EngineReplica:
    return EngineReplica(core, SETTINGS, clock or FixedClock(), started_s=1.5)


def ask(path: str = "/v1/chat/completions", method: str = "POST", **headers: str) -> EngineCall:
    return EngineCall(path, headers, b"{}", RequestId("req-1"), SessionId("s"), method)


async def items(engine: EngineReplica, call: EngineCall) -> list[EngineItem]:
    return [item async for item in engine.call(call)]


async def test_only_named_headers_and_the_request_id_reach_the_engine() -> None:
    call = ask(**{"content-type": "application/json", "authorization": "Bearer key", "x-api-key": "k", "cookie": "c"})
    got = await items(replica(FakeCore()), call)
    assert got == [EngineStart(200, ()), b"content-type=application/json;x-request-id=req-1"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/abort_requests"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/chat/completions/../../metrics"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/metrics"),
    ],
)
async def test_no_other_path_is_reachable(method: str, path: str) -> None:
    core = FakeCore(app=None)  # calling it would be a TypeError
    with pytest.raises(EngineFailed, match="does not serve"):
        await items(replica(core), ask(path, method))


async def test_what_a_dead_engine_says_is_not_an_answer() -> None:
    core = FakeCore()

    async def dying(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: good\n\n", "more_body": True})
        core.died = "its core process died"
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    core.bridge = AsgiBridge(dying, FlushSettings(few_ms=0))
    got: list[EngineItem] = []

    async def read() -> None:
        async for item in replica(core).call(ask()):
            got.append(item)

    with pytest.raises(EngineFailed) as caught:
        await read()
    assert b"[DONE]" not in b"".join(item for item in got if isinstance(item, bytes))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


async def test_a_dead_engine_is_not_asked() -> None:
    with pytest.raises(EngineFailed, match="core process died"):
        await items(replica(FakeCore(app=None, died="its core process died")), ask())


async def test_health_follows_the_core() -> None:
    core = FakeCore()
    engine = replica(core)
    await engine.check_health()
    core.died = "vLLM reported a fatal error"
    with pytest.raises(EngineFailed, match="fatal error"):
        await engine.check_health()


async def test_a_core_that_hangs_with_work_is_unhealthy() -> None:
    core, clock = FakeCore(unfinished=1), FixedClock()
    engine = replica(core, clock)
    await engine.check_health()
    clock.advance(59_000)
    await engine.check_health()
    clock.advance(1_000)
    with pytest.raises(EngineFailed, match="no step for 60 s"):
        await engine.check_health()
    core.step += 1
    await engine.check_health()


def test_idle_time_is_not_a_stall() -> None:
    watch = ProgressWatch(stall_s=10)
    assert watch.stalled_s(unfinished=0, steps=5, now_s=0) is None
    assert watch.stalled_s(unfinished=0, steps=5, now_s=100) is None
    assert watch.stalled_s(unfinished=1, steps=5, now_s=101) is None
    assert watch.stalled_s(unfinished=1, steps=5, now_s=111) == 11


async def test_info_and_numbers_for_scaling() -> None:
    engine = replica(FakeCore(unfinished=3))
    info = await engine.info()
    assert (info.model, info.revision, info.kind) == ("demo-20b", "r1", "vllm")
    assert (info.running, info.queued_tokens, info.core_pids, info.max_model_len) == (3, 7, (4711,), 2048)
    assert engine.record_autoscaling_stats() == {
        "unfinished": 3.0,
        "running": 3.0,
        "waiting": 0.0,
        "queued_tokens": 7.0,
        "kv_usage": 0.5,
        "seats": 4.0,
        "saturation": 0.75,
        "latency_p95_s": 0.0,
    }


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"seed": 7, "max_tokens": 3}', {"max_tokens": 3}),
        (b'{"messages": [{"role": "user", "content": "a \\"seed\\" of doubt"}]}', None),
        (b'{"prompt": "x", "stop": ["seed"]}', None),
        (b'["seed"]', None),
        (b'{"seed"', None),
    ],
)
def test_a_seed_can_be_left_out_and_nothing_else(body: bytes, kept: dict[str, object] | None) -> None:
    assert without_seed(body) == body if kept is None else json.loads(without_seed(body)) == kept


@pytest.mark.parametrize(
    "body",
    [b'{"prompt":"x"}', b' {"prompt": "x", "stop": ["{"]}', b'{"messages": [{"role": "user", "content": "\\"}"}]}'],
)
def test_a_salt_is_added_and_nothing_else_changes(body: bytes) -> None:
    assert json.loads(salted(body, "00ff")) == {**json.loads(body), "cache_salt": "00ff"}
    assert salted(body, "") == body


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"{", b"null", b'"x"', b'{1: "x"}'])
def test_a_body_without_fields_is_left_to_the_engine(body: bytes) -> None:
    assert salted(body, "00ff") == body


@pytest.mark.parametrize(
    ("path", "has"),
    [("/v1/chat/completions", True), ("/v1/completions", True), ("/tokenize", False), ("/v1/embeddings", False)],
)
async def test_only_generations_are_salted(path: str, has: bool) -> None:
    async def repeat(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    call = EngineCall(path, {}, b'{"model":"m"}', RequestId("r"), SessionId("s"), cache_salt="00ff")
    [_, body] = await items(replica(FakeCore(repeat)), call)
    assert json.loads(cast(bytes, body)) == ({"cache_salt": "00ff"} if has else {}) | {"model": "m"}
