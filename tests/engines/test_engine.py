"""Real vLLM on a demonstration checkpoint: the adapter's contract. The first thing to run when the pin of vLLM moves.

Wants from `conftest.py`: `demo_models` (model id -> checkpoint folder) and `vocabulary_dir`.
"""

import asyncio
import io
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from deployments.clock import SystemClock
from deployments.engine.guardian import started
from deployments.engine.options import EXTRA_ENGINE_ARGS, EngineSettings, deployment_options, replica_env
from deployments.engine.replica import EngineReplica
from deployments.errors import EngineFailed, EngineOverloaded
from deployments.ingress.opening import Opening
from deployments.ports import Counted, EngineCall, EngineItem, EngineStart, Repaired, RequestId, SessionId

pytestmark = pytest.mark.timeout(600)

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "string", "enum": ["small", "large"]}},
    "required": ["size"],
    "additionalProperties": False,
}
WINDOW = 1024


def engine_settings(source: str) -> EngineSettings:
    return EngineSettings(
        model="demo",
        revision="test-1",
        source=source,
        max_model_len=WINDOW,
        max_num_seqs=4,
        dtype="bfloat16",
        enforce_eager=True,
        kv_cache_memory_bytes=64 << 20,
        max_queued=4,
        num_cpus=0.1,
        system_date="2026-01-01",
        drain_s=10,
    )


@pytest.fixture(scope="session")
def settings(demo_models: Mapping[str, Path | str]) -> EngineSettings:
    return engine_settings(str(next(iter(demo_models.values()))))


@pytest.fixture(scope="class")
def environment(settings: EngineSettings, vocabulary_dir: Path | str) -> Iterator[dict[str, str]]:
    env = replica_env(settings, str(vocabulary_dir), "cpu")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield env


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    repaired: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    def events(self) -> list[dict[str, Any]]:
        """Chunks of a stream, which must be framed properly and end in `[DONE]`."""
        blocks = self.body.decode().split("\n\n")
        assert blocks[-1].strip() == ""
        assert blocks[-2] == "data: [DONE]"
        return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


Call = Callable[[EngineCall], AsyncGenerator[EngineItem, None]]


def request(body: Any, path: str = CHAT, request_id: str = "req-1") -> EngineCall:
    raw = body if isinstance(body, bytes) else json.dumps({"model": "demo", "temperature": 0} | body).encode()
    return EngineCall(path, {"content-type": "application/json"}, raw, RequestId(request_id), SessionId("s"))


async def ask(call: Call, body: Any, path: str = CHAT) -> Reply:
    status, headers, answer, repaired = 0, dict[str, str](), b"", tuple[str, ...]()
    async for item in call(request(body, path)):
        match item:
            case EngineStart():
                assert status == 0
                status, headers = item.status, dict(item.headers)
            case Repaired():
                repaired += item.notes
            case bytes():
                assert status
                answer += item
    return Reply(status, headers, answer, repaired)


def deltas(events: list[dict[str, Any]], key: str, index: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(key) or "" for choice in choices)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def core(settings: EngineSettings, environment: dict[str, str]) -> AsyncGenerator[Any, None]:
    from deployments.engine.adapter import VLLM

    core, started_s = await VLLM.start(settings, SystemClock(), ray_metrics=False)
    assert started_s > 0
    yield core
    await core.bridge.aclose()
    core.shutdown()


@pytest.fixture(scope="class")
def engine(core: Any, settings: EngineSettings) -> EngineReplica:
    return EngineReplica(core, settings, SystemClock(), started_s=0.0)


@pytest.mark.asyncio(loop_scope="class")
class TestInProcess:
    async def test_it_says_what_it_is(self, engine: EngineReplica) -> None:
        info = await engine.info()
        assert (info.model, info.revision, info.kind) == ("demo", "test-1", "vllm")
        assert (info.running, info.max_model_len, len(info.core_pids)) == (0, WINDOW, 1)
        await engine.check_health()

    async def test_extra_engine_arguments_exist_in_this_vllm(self, core: Any) -> None:
        from dataclasses import fields

        from vllm.engine.arg_utils import AsyncEngineArgs

        assert {field.name for field in fields(AsyncEngineArgs)} >= EXTRA_ENGINE_ARGS

    async def test_chat(self, engine: EngineReplica) -> None:
        reply = await ask(engine.call, {"messages": HELLO})
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        answer = reply.json()
        assert answer["id"] == "chatcmpl-req-1"
        assert answer["system_fingerprint"] == "test-1"
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["choices"][0]["message"]["content"]
        assert answer["usage"]["prompt_tokens"] > 0
        assert "cached_tokens" in answer["usage"]["prompt_tokens_details"]

    async def test_a_streamed_answer_is_the_same_answer(self, engine: EngineReplica) -> None:
        whole = (await ask(engine.call, {"messages": HELLO})).json()["choices"][0]["message"]
        body = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
        reply = await ask(engine.call, body)
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = reply.events()
        assert deltas(events, "content") == whole["content"]
        assert deltas(events, "reasoning") == (whole["reasoning"] or "")
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["completion_tokens"] > 0
        assert events[-2]["choices"][0]["finish_reason"] == "stop"

    async def test_a_cached_prefix_serves_only_prompts_of_its_salt(self, engine: EngineReplica) -> None:
        body = {"messages": [{"role": "user", "content": "one two three four five six seven eight " * 50}]}

        async def cached(salt: str) -> int:
            salted = replace(request(body | {"max_tokens": 1}), cache_salt=salt)
            items = [item async for item in engine.call(salted)]
            answer = json.loads(b"".join(item for item in items if isinstance(item, bytes)))
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        first, again, other = [await cached(salt) for salt in ("a" * 32, "a" * 32, "b" * 32)]
        assert again > first  # the template alone is shorter than a block, so the first has nothing to find
        assert (first, other) == (0, 0)

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (CHAT, {"messages": HELLO}),
            (CHAT, {"messages": HELLO, "stream": True}),
            (CHAT, {"messages": HELLO, "stream": True, "n": 2, "temperature": 1.0, "max_tokens": 9}),
            (CHAT, {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required", "stream": True}),
            ("/v1/completions", {"prompt": [[1, 2, 3], [4, 5]], "max_tokens": 4, "ignore_eos": True}),
            ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 1, "stream": True}),
        ],
        ids=["whole", "stream", "two-choices", "tool-call", "batch", "one-token"],
    )
    async def test_a_counted_reply_says_the_same_and_ends_with_its_own_usage(
        self, engine: EngineReplica, path: str, body: dict[str, Any]
    ) -> None:
        if body.get("stream"):
            body = body | {"stream_options": {"include_usage": True}}
        plain = await ask(engine.call, body, path)
        items = [item async for item in engine.call(replace(request(body, path), counted=True))]
        counts = [item for item in items if isinstance(item, Counted)]
        data = b"".join(item.data if isinstance(item, Counted) else b"" for item in items)
        assert not any(isinstance(item, bytes) for item in items)

        def events(raw: bytes) -> list[dict[str, Any]]:
            return [json.loads(each.removeprefix(b"data: ")) for each in raw.split(b"\n\n") if b"{" in each]

        def usages(raw: bytes) -> list[Any]:
            return [event["usage"] for event in events(raw) if event.get("usage")]

        def text(raw: bytes, index: int) -> str:
            choices = [choice for event in events(raw) for choice in event["choices"] if choice["index"] == index]
            said = [choice.get("delta") or choice.get("message") or choice for choice in choices]
            return "".join(each.get("content") or each.get("text") or "" for each in said)

        (last,) = usages(data)  # as many as were asked for
        assert len(usages(plain.body)) == 1
        assert counts[-1].usage.input_tokens == last["prompt_tokens"]
        assert counts[-1].usage.output_tokens == last["completion_tokens"] > 0
        if "temperature" not in body:  # else every answer is another one
            assert [text(data, index) for index in (0, 1)] == [text(plain.body, index) for index in (0, 1)]

    @pytest.mark.parametrize("chunks", [1, 3, 8])
    async def test_who_hangs_up_is_charged_for_the_tokens_that_were_generated(
        self, engine: EngineReplica, core: Any, chunks: int
    ) -> None:
        body = {"messages": HELLO, "stream": True, "ignore_eos": True, "max_tokens": 900}
        opening = Opening(engine.call(replace(request(body), counted=True)))
        await opening.start(None)
        for _ in range(chunks):
            await anext(opening)
        (state,) = core._engine.output_processor.request_states.values()
        steps, then = core.steps(), state.detokenizer.num_output_tokens()
        counted = opening.counted
        assert counted is not None
        assert (counted.input_tokens, counted.cached_tokens) == (state.prompt_len, state.num_cached_tokens)
        assert 0 < counted.output_tokens <= then
        await opening.aclose()
        await until(lambda: core.load().unfinished == 0)
        generated = state.detokenizer.num_output_tokens()
        print(f"{chunks} chunks: counted {counted.output_tokens}, then {then}, at the end {generated}")
        assert generated - then <= core.steps() - steps  # one token a step, until the engine heard of it

    async def test_a_whole_reply_is_counted_while_it_is_generated(self, engine: EngineReplica, core: Any) -> None:
        body = {"messages": HELLO, "ignore_eos": True, "max_tokens": 900}
        items = engine.call(replace(request(body), counted=True))
        async for item in items:
            assert isinstance(item, Counted), "the answer came before any count"
            assert item.data == b""
            if item.usage.output_tokens:
                break
        await items.aclose()
        await until(lambda: core.load().unfinished == 0)

    async def test_a_tool_call(self, engine: EngineReplica) -> None:
        body = {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required"}
        choice = (await ask(engine.call, body)).json()["choices"][0]
        (call,) = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        assert call["function"]["name"] == "get_weather"
        assert "city" in json.loads(call["function"]["arguments"])

    async def test_a_streamed_tool_call(self, engine: EngineReplica) -> None:
        body = {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required", "stream": True}
        events = (await ask(engine.call, body)).events()
        calls = [
            call for event in events for choice in event["choices"] for call in choice["delta"].get("tool_calls") or ()
        ]
        assert calls[0]["function"]["name"] == "get_weather"
        assert "city" in json.loads("".join(call["function"].get("arguments") or "" for call in calls))
        assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_structured_output_is_content(self, engine: EngineReplica, stream: bool) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "size", "schema": SCHEMA, "strict": True}}
        reply = await ask(engine.call, {"messages": HELLO, "response_format": wanted, "stream": stream})
        if stream:
            events = reply.events()
            content, finish = deltas(events, "content"), events[-1]["choices"][0]["finish_reason"]
        else:
            choice = reply.json()["choices"][0]
            content, finish = choice["message"]["content"], choice["finish_reason"]
        assert json.loads(content)["size"] in {"small", "large"}
        assert finish == "stop"

    async def test_logprobs(self, engine: EngineReplica) -> None:
        reply = await ask(engine.call, {"messages": HELLO, "logprobs": True, "top_logprobs": 2, "max_tokens": 8})
        tokens = reply.json()["choices"][0]["logprobs"]["content"]
        assert len(tokens) == 8
        assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in tokens)

    async def test_several_choices(self, engine: EngineReplica) -> None:
        choices = (await ask(engine.call, {"messages": HELLO, "n": 2, "temperature": 1.0})).json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1]
        streamed = (await ask(engine.call, {"messages": HELLO, "n": 2, "temperature": 1.0, "stream": True})).events()
        finished = [choice for event in streamed for choice in event["choices"] if choice["finish_reason"]]
        assert {choice["index"] for choice in finished} == {0, 1}

    async def test_completions(self, engine: EngineReplica) -> None:
        body = {"prompt": "hello", "max_tokens": 5, "ignore_eos": True}
        whole = (await ask(engine.call, body, "/v1/completions")).json()
        events = (await ask(engine.call, body | {"stream": True}, "/v1/completions")).events()
        assert whole["usage"]["completion_tokens"] == 5
        assert "".join(event["choices"][0]["text"] for event in events) == whole["choices"][0]["text"]

    async def test_responses_and_messages(self, engine: EngineReplica) -> None:
        responses = (await ask(engine.call, {"input": "hello"}, "/v1/responses")).json()
        assert responses["status"] == "completed"
        messages = (await ask(engine.call, {"messages": HELLO, "max_tokens": 64}, "/v1/messages")).json()
        assert messages["type"] == "message"

    async def test_tokenize_and_back(self, engine: EngineReplica) -> None:
        tokens = (await ask(engine.call, {"prompt": "hello there"}, "/tokenize")).json()["tokens"]
        assert (await ask(engine.call, {"tokens": tokens}, "/detokenize")).json()["prompt"] == "hello there"

    @pytest.mark.parametrize(
        ("body", "path", "says"),
        [
            ({"messages": HELLO, "temperature": "hot"}, CHAT, "temperature"),
            ({"messages": HELLO, "max_tokens": 0}, CHAT, "max_tokens"),
            (b"{nope", CHAT, "JSON"),
            ({"messages": [{"role": "user", "content": "hello " * (WINDOW + 10)}]}, CHAT, "maximum context length"),
            (
                {"messages": [{"role": "user", "content": "hello " * (WINDOW + 10)}], "stream": True},
                CHAT,
                "maximum context length",
            ),
            ({"prompt": "hello " * (WINDOW + 10)}, "/v1/completions", "maximum context length"),
            ({"prompt": "hi", "max_tokens": WINDOW + 1}, "/v1/completions", "max_model_len"),
        ],
    )
    async def test_a_bad_request_is_a_400(self, engine: EngineReplica, body: Any, path: str, says: str) -> None:
        reply = await ask(engine.call, body, path)
        assert reply.status == 400
        assert says in reply.json()["error"]["message"]

    async def test_malformed_harmony_is_repaired_and_told_before_its_bytes(self, engine: EngineReplica) -> None:
        only_hello = {"messages": HELLO, "allowed_token_ids": [24912], "max_tokens": 8}  # no header can come of it
        for stream in (False, True):
            items = [item async for item in engine.call(request(only_hello | {"stream": stream}))]
            assert isinstance(items[0], EngineStart)
            assert items[0].status == 200
            answer = b"".join(item for item in items if isinstance(item, bytes))
            assert answer.count(b"hello") == 8
            note = next(n for n, item in enumerate(items) if isinstance(item, Repaired))
            assert not any(b"hello" in item for item in items[:note] if isinstance(item, bytes))

    @pytest.mark.parametrize("stream", [True, False])
    async def test_hanging_up_frees_the_engine(self, engine: EngineReplica, core: Any, stream: bool) -> None:
        body = {"prompt": "hello", "max_tokens": WINDOW - 50, "ignore_eos": True, "stream": stream}
        items = engine.call(request(body, "/v1/completions"))
        reading = asyncio.create_task(anext(items))
        await until(lambda: core.load().unfinished == 1)
        if stream:
            assert isinstance(await reading, EngineStart)
        reading.cancel()
        await asyncio.wait([reading])
        await items.aclose()
        await until(lambda: core.load().unfinished == 0 and core.bridge.active == 0)

    async def test_a_full_queue_refuses(self, engine: EngineReplica, core: Any) -> None:
        long = {"prompt": "hello", "max_tokens": WINDOW - 50, "ignore_eos": True, "stream": True}
        running = [engine.call(request(long, "/v1/completions", f"r{n}")) for n in range(4)]
        for items in running:
            await anext(items)
        await until(lambda: core.load().unfinished == 4)
        with pytest.raises(EngineOverloaded):
            await ask(engine.call, {"messages": HELLO})
        for items in running:
            await items.aclose()
        await until(lambda: core.load().unfinished == 0)

    async def test_no_prompt_is_logged(self, engine: EngineReplica) -> None:
        logged = io.StringIO()
        handler = logging.StreamHandler(logged)
        loggers = [logging.getLogger(name) for name in (None, "vllm")]  # vLLM's does not propagate
        for logger in loggers:
            logger.addHandler(handler)
        try:
            logging.getLogger("vllm.probe").warning("it listens")
            secret = [{"role": "user", "content": "xyzzyplugh"}]
            await ask(engine.call, {"messages": secret})
            await ask(engine.call, {"messages": secret, "n": 0})
            await ask(engine.call, {"messages": secret, "temperature": "xyzzyplugh", "xyzzyplugh": 1})
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
        assert "it listens" in logged.getvalue()
        assert "xyzzyplugh" not in logged.getvalue()

    async def test_numbers_for_scaling(self, engine: EngineReplica) -> None:
        stats = engine.record_autoscaling_stats()
        assert stats.pop("seats") > 0
        stats.pop("latency_p95_s", None)  # of the last minute; there is none before the first answer
        idle = ("unfinished", "running", "waiting", "queued_tokens", "kv_usage", "saturation")
        assert stats == dict.fromkeys(idle, 0.0)

    async def test_a_killed_core_fails_the_request_and_the_replica(self, engine: EngineReplica, core: Any) -> None:
        body = {"prompt": "hello", "max_tokens": WINDOW - 50, "ignore_eos": True, "stream": True}
        answer = b""

        async def read() -> None:
            nonlocal answer
            async with aclosing(engine.call(request(body, "/v1/completions"))) as items:
                async for item in items:
                    if isinstance(item, bytes):
                        if not answer:
                            os.kill(core.pids()[0], signal.SIGKILL)
                        answer += item

        with pytest.raises(EngineFailed):
            await asyncio.wait_for(read(), 60)
        assert answer
        assert b"[DONE]" not in answer
        with pytest.raises(EngineFailed):
            await engine.check_health()
        with pytest.raises(EngineFailed):
            await ask(engine.call, {"messages": HELLO})


class TestStart:
    async def test_a_missing_vocabulary_is_one_sentence(
        self, settings: EngineSettings, tmp_path: Path, vocabulary_dir: Path | str
    ) -> None:
        """In a process of its own: the vocabulary is loaded once per process."""
        script = (
            "import asyncio, sys\n"
            "from deployments.clock import SystemClock\n"
            "from deployments.engine.adapter import VLLM, EngineStartFailed\n"
            "from deployments.engine.options import EngineSettings\n"
            "async def main():\n"
            "    settings = EngineSettings.model_validate_json(sys.argv[1])\n"
            "    try:\n"
            "        await VLLM.start(settings, SystemClock(), ray_metrics=False)\n"
            "    except EngineStartFailed as error:\n"
            "        sys.exit(f'SAID: {error}')\n"
            "if __name__ == '__main__':\n"
            "    asyncio.run(main())\n"
        )
        (tmp_path / "start.py").write_text(script, encoding="utf-8")
        env = dict(os.environ) | replica_env(settings, str(tmp_path), "cpu")
        env["PYTHONPATH"] = str(Path(__file__).parents[2])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(tmp_path / "start.py"),
            settings.model_dump_json(),
            env=env,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        said = [line for line in errors.decode().splitlines() if line.startswith("SAID: ")]
        assert process.returncode == 1
        assert len(said) == 1
        assert "TIKTOKEN_ENCODINGS_BASE" in said[0]


@pytest.fixture(scope="class")
def client(settings: EngineSettings, vocabulary_dir: Path | str) -> Iterator[Any]:
    import ray
    from ray import serve

    from deployments._bind import bind
    from deployments.clients import EngineClient
    from deployments.engine.deployment import VLLMEngine

    ours = not ray.is_initialized()
    if ours:
        ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    options = deployment_options(settings, str(vocabulary_dir), "cpu") | {"health_check_period_s": 1.0}
    app = bind(VLLMEngine, settings, name="engine-test", **options)
    try:
        yield EngineClient(serve.run(app, name="engine-test", route_prefix=None), timeout_s=120)
    finally:
        serve.delete("engine-test")
        if ours:
            serve.shutdown()
            ray.shutdown()


@pytest.mark.asyncio(loop_scope="class")
class TestOnServe:
    async def test_the_handle_serves_streams_and_aborts(self, client: Any) -> None:
        assert (await ask(client.call, {"messages": HELLO})).json()["choices"][0]["message"]["content"]
        events = (await ask(client.call, {"messages": HELLO, "stream": True})).events()
        assert deltas(events, "content")
        body = {"prompt": "hello", "max_tokens": WINDOW - 50, "ignore_eos": True, "stream": True}
        items = client.call(request(body, "/v1/completions"))
        await anext(items)
        assert (await client.info()).running == 1
        await items.aclose()
        async with asyncio.timeout(10):
            while (await client.info()).running:
                await asyncio.sleep(0.05)

    async def test_counts_come_with_the_bytes(self, client: Any) -> None:
        body = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
        items = [item async for item in client.call(replace(request(body), counted=True))]
        counts = [item for item in items if isinstance(item, Counted)]
        assert len(counts) == len(items) - 1  # all but the start
        data = b"".join(item.data for item in counts)
        told = json.loads(data.split(b"\n\n")[-3].removeprefix(b"data: "))["usage"]
        assert (counts[-1].usage.input_tokens, counts[-1].usage.output_tokens) == (
            told["prompt_tokens"],
            told["completion_tokens"],
        )

    async def test_a_killed_core_ends_the_stream_and_the_replica_comes_back(self, client: Any) -> None:
        before = await client.info()
        body = {"prompt": "hello", "max_tokens": WINDOW - 50, "ignore_eos": True, "stream": True}

        async def read() -> None:
            killed = False
            async with aclosing(client.call(request(body, "/v1/completions"))) as items:
                async for item in items:
                    if isinstance(item, bytes) and not killed:
                        os.kill(before.core_pids[0], signal.SIGKILL)
                        killed = True

        with pytest.raises(EngineFailed):
            await asyncio.wait_for(read(), 60)
        async with asyncio.timeout(240):
            while True:
                try:
                    after = await client.info()
                    if after.pid != before.pid:
                        break
                except EngineFailed:
                    pass
                await asyncio.sleep(0.5)
        assert (await ask(client.call, {"messages": HELLO})).status == 200

    async def test_a_killed_replica_leaves_no_core_behind(self, client: Any) -> None:
        info = await client.info()
        os.kill(info.pid, signal.SIGKILL)
        (core_pid,) = info.core_pids
        async with asyncio.timeout(20):
            while started(core_pid):
                await asyncio.sleep(0.1)
