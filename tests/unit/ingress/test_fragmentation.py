"""However an engine's bytes are cut, the client gets the same ones: every recorded stream, in every dialect.

`tests/recorded` holds what engines sent; its README says which streams were measured. Here each of them is cut at
random, and between all bytes, and the result is compared with that of the uncut stream byte for byte: what leaves, what
is judged, what is stored and charged, and how it fails.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.errors import EngineFailed, GatehouseError
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.dialects.values import Emit, Failure, Judge, ReplyFilter
from deployments.ports import Dialect, JsonValue, ToolCall, Usage
from tests.fakes import FRAMING, chunk, sse
from tests.unit.ingress.test_chat_stream import RECEIPT, hold_dangerous

STREAMS = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parents[2] / "recorded").glob("*.sse"))}
COMPLETIONS = frozenset(name for name in STREAMS if "completion" in name)
SEVERAL = frozenset({"vllm-two-choices"})  # only chat and completions can ask for more than one choice
BROKEN = frozenset(name for name in STREAMS if name.startswith("broken-"))
CHUNKINGS = 5000
"""Per dialect, over all of its streams."""

CODECS = make_codecs(emulate_fim=True)
TOOLS = ("shell", "read_file", "write_file", "get_weather", "json")
SCHEMA = {"type": "object"}
TALK = [{"role": "user", "content": "go"}]
FAILURE = Failure("upstream_error", "The model could not answer this request.", b'{"error":{"code":"upstream_error"}}')
CHAT = {
    "messages": TALK, "stream": True,
    "tools": [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in TOOLS],
}  # fmt: skip


def chat(**more: JsonValue) -> Callable[[], ReplyFilter]:
    return made(Dialect.CHAT, {**CHAT, **more})


def made(dialect: Dialect, body: dict[str, JsonValue]) -> Callable[[], ReplyFilter]:
    asked = CODECS[dialect].read(body)
    return lambda: CODECS[dialect].filter(asked, FRAMING)


def not_completions() -> frozenset[str]:
    return frozenset(STREAMS) - COMPLETIONS


CASES: dict[str, tuple[Callable[[], ReplyFilter], frozenset[str]]] = {
    "chat": (chat(stream_options={"include_usage": True}), not_completions()),
    "chat without usage": (chat(), not_completions()),
    "completions": (made(Dialect.COMPLETIONS, {"prompt": "x", "stream": True}), COMPLETIONS),
    "completions, emulated middle": (
        made(Dialect.COMPLETIONS, {"prompt": "a", "suffix": "b", "stream": True, "stop": ["three"]}),
        not_completions() - SEVERAL,
    ),
    "responses": (
        made(
            Dialect.RESPONSES,
            {
                "input": "go", "stream": True,
                "tools": [{"type": "function", "name": name, "parameters": SCHEMA} for name in TOOLS],
            },
        ),
        not_completions() - SEVERAL,
    ),
    "messages": (
        made(
            Dialect.MESSAGES,
            {
                "messages": TALK, "max_tokens": 100, "stream": True, "thinking": {"type": "adaptive"},
                "tools": [{"name": name, "input_schema": SCHEMA} for name in TOOLS],
            },
        ),
        not_completions() - SEVERAL,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """All that comes of one reply."""

    data: bytes
    judged: tuple[ToolCall, ...]
    error: type[GatehouseError] | None
    usage: Usage | None
    finish_reasons: tuple[str, ...]
    final: object


def played(reply: ReplyFilter, pieces: Iterator[bytes] | list[bytes]) -> Seen:
    """What a client gets when the engine's bytes arrive in these pieces; a break ends in the dialect's error event."""
    out: list[bytes] = []
    judged: list[ToolCall] = []
    error: type[GatehouseError] | None = None

    def steps() -> None:
        while (step := reply.step()) is not None:
            match step:
                case Emit():
                    out.append(step.data)
                case Judge():
                    judged.extend(step.calls)
                    reply.resolve([hold_dangerous(call) for call in step.calls])

    reply.receipt(RECEIPT)
    try:
        for piece in pieces:
            reply.feed(piece)
            steps()
        reply.close()
        steps()
    except GatehouseError as failed:
        error = type(failed)
        out.append(reply.failed(FAILURE))
    return Seen(b"".join(out), tuple(judged), error, reply.usage, reply.finish_reasons, reply.final)


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """The bytes in pieces: a few or many, of any size, more often next to the end of an event than elsewhere."""
    if rng.random() < 0.5:
        places = {rng.randrange(1, len(data)) for _ in range(rng.choice((1, 2, 3, 5, 12, 40)))}
    else:
        ends = [at for at in range(1, len(data)) if data[at - 1 : at] == b"\n"]
        places = {min(max(1, rng.choice(ends) + rng.randint(-9, 9)), len(data) - 1) for _ in range(rng.randint(1, 20))}
    edges = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


@pytest.mark.parametrize("case", CASES)
def test_random_cuts_change_nothing(case: str) -> None:
    make, names = CASES[case]
    cut_at_random(make, names - BROKEN, CHUNKINGS)


@pytest.mark.parametrize("case", CASES)
def test_single_bytes_change_nothing(case: str) -> None:
    make, names = CASES[case]
    cut_everywhere(make, names - BROKEN)


@pytest.mark.parametrize("case", CASES)
def test_random_cuts_do_not_change_what_is_left_of_a_broken_stream(case: str) -> None:
    make, names = CASES[case]
    cut_at_random(make, names & BROKEN, CHUNKINGS // 5)


@pytest.mark.parametrize("case", CASES)
def test_single_bytes_do_not_change_what_is_left_of_a_broken_stream(case: str) -> None:
    make, names = CASES[case]
    cut_everywhere(make, names & BROKEN)


def cut_at_random(make: Callable[[], ReplyFilter], names: frozenset[str], total: int) -> None:
    rng = random.Random(len(names))
    for name in sorted(names):
        whole = played(make(), [STREAMS[name]])
        for _ in range(-(-total // len(names))):
            pieces = cut(STREAMS[name], rng)
            assert played(make(), pieces) == whole, (name, [len(piece) for piece in pieces])


def cut_everywhere(make: Callable[[], ReplyFilter], names: frozenset[str]) -> None:
    for name in sorted(names):
        data = STREAMS[name]
        single = (data[at : at + 1] for at in range(len(data)))
        assert played(make(), single) == played(make(), [data]), name


@pytest.mark.parametrize("case", CASES)
def test_a_stream_is_whole_or_ends_in_an_error(case: str) -> None:
    make, names = CASES[case]
    for name in sorted(names):
        seen = played(make(), [STREAMS[name]])
        assert seen.error is (EngineFailed if name in BROKEN else None), name
        assert bool(seen.finish_reasons) or name in BROKEN, name
        if name in BROKEN:
            assert seen.data.endswith(make_failed(seen.data, make)), name


def make_failed(data: bytes, make: Callable[[], ReplyFilter]) -> bytes:
    """How a broken stream of the dialect ends."""
    last = make().failed(FAILURE)
    return last if last in data else data[data.rindex(b"event: ") :]


@pytest.mark.parametrize("case", [case for case in CASES if "completions" not in case])
def test_the_recorded_call_that_needs_an_approval_never_leaves(case: str) -> None:
    make, _ = CASES[case]
    for name in ("held-call", "held-call-alone"):
        seen = played(make(), [STREAMS[name]])
        assert "kubectl delete" in "".join(call.arguments for call in seen.judged)
        assert b"kubectl" not in seen.data
        assert b"[gatehouse:held id=apr_1" in seen.data
        assert repr(seen.final).count("kubectl") == 0


@pytest.mark.parametrize("case", [case for case in CASES if "completions" not in case])
def test_what_the_length_limit_has_cut_is_never_judged(case: str) -> None:
    make, _ = CASES[case]
    for name in ("call-cut-by-the-limit", "whole-call-cut-by-the-limit"):
        seen = played(make(), [STREAMS[name]])
        assert seen.judged == ()
        assert seen.finish_reasons == ("length",)
        assert b'"ls' not in seen.data


@pytest.mark.parametrize("case", [case for case in CASES if "completions" not in case])
@pytest.mark.parametrize("name", ["unicode", "unicode-escaped"])
def test_text_of_every_script_arrives_as_text(case: str, name: str) -> None:
    make, _ = CASES[case]
    seen = played(make(), [STREAMS[name]])
    events = [json.loads(line[6:]) for line in seen.data.split(b"\n") if line.startswith(b"data: {")]
    said = "".join(text for event in events for text in texts(event))
    for word in ("Überlegung … ", "深く考える", "Grüße ", "👩\u200d🚀🚀 "):
        assert word in said
    assert json.loads(seen.judged[0].arguments)["path"].startswith("grüße/🚀")


def texts(value: object) -> Iterator[str]:
    """Every text in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)


def test_a_dialect_has_streams_of_every_kind() -> None:
    assert len(STREAMS) - len(BROKEN) >= 20
    assert sum(name.startswith("vllm-") for name in STREAMS) >= 8
    assert all(names for _, names in CASES.values())


@pytest.mark.parametrize("reason", ["abort", "error"])
@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES])
def test_what_an_engine_gave_up_does_not_look_finished(dialect: Dialect, reason: str) -> None:
    codec = make_codecs()[dialect]
    turn = [{"role": "user", "content": "x"}]
    asked = codec.read({"model": "auto", "stream": True, **({"input": "x"} if dialect is Dialect.RESPONSES else
                        {"messages": turn, "max_tokens": 9})})  # fmt: skip
    reply = codec.filter(asked, FRAMING)
    reply.feed(sse(chunk(content="half"), chunk(finish=reason), "[DONE]"))
    first = reply.step()
    assert isinstance(first, Emit)
    assert b"half" in first.data
    with pytest.raises(EngineFailed):
        reply.step()
