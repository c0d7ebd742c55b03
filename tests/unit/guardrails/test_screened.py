"""An engine's reply behind guardrails: what is fine says the same as without them, however its bytes are cut."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import EngineFailed
from deployments.guardrails.guard import RULES
from deployments.guardrails.look import Look
from deployments.guardrails.scan import Scanner
from deployments.guardrails.values import Action, Detector, Direction
from deployments.ingress.dialects.chat import ChatStream
from deployments.ingress.dialects.screened import EngineScreen, ScreenedReply
from tests.fakes import FRAMING, USAGE, call_chunk, chunk, json_reply, sse
from tests.unit.guardrails.samples import WORD

RECORDED = sorted(Path(__file__).parents[2].joinpath("recorded").glob("*.sse"))
MAIL, TOKEN = "bob@corp.example", f"sk-proj-{WORD}"


def look(action: Action = Action.MASK) -> Look:
    actions = {Detector.PII: action, Detector.SECRETS: action}
    return Look(Scanner(RULES, actions), True, Direction.OUTPUT)


class Screened:
    """What comes out for these bytes, and what was noted."""

    def __init__(self, data: bytes, size: int = 0, how: Look | None = None, stream: bool = True) -> None:
        self.notes: list[Mapping[str, Any]] = []
        screen = EngineScreen(how or look(), stream, self.notes.append)
        step = size or len(data) or 1
        self.data = b"".join(screen.feed(data[at : at + step]) for at in range(0, len(data), step)) + screen.close()


def heard(data: bytes) -> dict[str, Any]:
    """What a stream says: the texts and arguments of each choice, its end, the counts of tokens."""
    texts: dict[str, str] = defaultdict(str)
    ends: dict[int, Any] = {}
    usage: list[Any] = []
    for event in data.split(b"\n\n"):
        try:
            body = json.loads(event.removeprefix(b"data:"))
            choices = body["choices"]
        except (ValueError, KeyError, TypeError):
            continue
        usage += [body["usage"]] if body.get("usage") else []
        for choice in choices:
            says = choice.get("delta", choice)
            at = choice.get("index", 0)
            for key in ("content", "text", "reasoning", "reasoning_content", "refusal"):
                if isinstance(says.get(key), str):
                    texts[f"{at}.{key}"] += says[key]
            for piece in says.get("tool_calls") or []:
                function = piece.get("function") or {}
                texts[f"{at}.call{piece.get('index', 0)}"] += (function.get("name") or "") + (
                    function.get("arguments") or ""
                )
            if legacy := says.get("function_call"):
                texts[f"{at}.legacy"] += (legacy.get("name") or "") + (legacy.get("arguments") or "")
            if choice.get("finish_reason"):
                ends[at] = choice["finish_reason"]
    return {"texts": {key: text for key, text in texts.items() if text}, "ends": ends, "usage": usage}


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
@pytest.mark.parametrize("size", [0, 7, 333])
def test_recorded_streams_say_the_same(file: Path, size: int) -> None:
    data = file.read_bytes()
    screened = Screened(data, size)
    if heard(data)["ends"] and "goes-on" not in file.stem:
        assert heard(screened.data) == heard(data)
    assert screened.data.count(b"[DONE]") == data.count(b"[DONE]")
    assert screened.notes == []


def test_a_stream_that_goes_on_after_its_end_is_still_broken() -> None:
    data = stream(chunk(content="one two"), chunk(finish="stop"), chunk(content="three"))
    reply = ScreenedReply(ChatStream(True, FRAMING), True, look)
    reply.feed(data)
    with pytest.raises(EngineFailed, match="after its end"):
        while reply.step() is not None:
            pass


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_a_look_that_changes_nothing_changes_no_byte(file: Path) -> None:
    data = file.read_bytes()
    assert Screened(data, 11, look(Action.TAG)).data == data


def stream(*chunks: Any) -> bytes:
    return sse(*chunks, USAGE, "[DONE]")


@pytest.mark.parametrize("size", [0, 1, 50])
def test_choices_reasoning_and_text_have_windows_of_their_own(size: int) -> None:
    data = stream(
        chunk(0, reasoning="ask bob@co"), chunk(1, content="nothing at"), chunk(0, reasoning="rp.example"),
        chunk(1, content=" all"), chunk(0, content="I ask "), chunk(0, content="bob@corp.ex"),
        chunk(0, content="ample."), chunk(1, "stop"), chunk(0, "length", content=" Bye"),
    )  # fmt: skip
    screened = Screened(data, size)
    assert heard(screened.data) == {
        "texts": {"0.reasoning": "ask [EMAIL]", "0.content": "I ask [EMAIL]. Bye", "1.content": "nothing at all"},
        "ends": {0: "length", 1: "stop"},
        "usage": [USAGE["usage"]],
    }
    assert screened.notes[-1] == {"guardrails": ["pii.email:mask=2"]}


def test_the_order_of_reasoning_and_text_stays() -> None:
    out = Screened(stream(chunk(reasoning="one two"), chunk(content="three four"), chunk(finish="stop"))).data
    assert out.index(b"two") < out.index(b"three") < out.index(b"four")
    both = Screened(stream(chunk(reasoning="one two", content="three"), chunk(finish="stop", content="four five"))).data
    assert heard(both)["texts"] == {"0.reasoning": "one two", "0.content": "threefour five"}


def test_one_choice_is_blocked_and_the_others_go_on() -> None:
    data = stream(
        chunk(0, content=f"key {TOKEN} x"), chunk(1, content="fine "), chunk(0, content=" more "), chunk(0, "stop"),
        chunk(1, content="so far"), chunk(1, "stop"),
    )  # fmt: skip
    screened = Screened(data, how=look(Action.BLOCK))
    assert heard(screened.data) == {
        "texts": {"0.content": "key ", "1.content": "fine so far"},
        "ends": {0: "content_filter", 1: "stop"},
        "usage": [USAGE["usage"]],
    }


def test_log_probabilities_which_spell_the_text_are_left_out() -> None:
    told: Any = chunk(content="bob")
    told["choices"][0]["logprobs"] = {"content": [{"token": "bob", "logprob": -0.1}]}
    assert b'logprob"' not in Screened(stream(told, chunk(finish="stop"))).data
    whole = json.loads(json_reply(f"I am {MAIL}")[1])  # type: ignore[arg-type]
    whole["choices"][0]["logprobs"] = {"content": [{"token": "bob", "logprob": -0.1}]}
    out = json.loads(Screened(json.dumps(whole).encode(), how=look(), stream=False).data)
    assert out["choices"][0]["logprobs"] is None
    fine = json.dumps({**whole, "choices": [{**whole["choices"][0], "message": {"content": "fine"}}]}).encode()
    assert Screened(fine, stream=False).data == fine


def test_a_count_of_tokens_on_a_chunk_that_waits_is_not_lost() -> None:
    counted = {**chunk(content="bob@co"), "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    screened = Screened(stream(counted, chunk(content="rp.example"), chunk(finish="stop")))
    assert heard(screened.data)["usage"] == [counted["usage"], USAGE["usage"]]
    assert heard(screened.data)["texts"] == {"0.content": "[EMAIL]"}


@pytest.mark.parametrize("content", [
    [{"type": "text", "text": f"I am {MAIL}"}], [f"I am {MAIL}"],
    [{"type": "text", "text": "I am bob@"}, {"type": "text", "text": "corp.example"}],
], ids=["part", "text", "parts"])  # fmt: skip
@pytest.mark.parametrize("streamed", [True, False])
def test_a_content_of_parts_is_looked_at(content: Any, streamed: bool) -> None:
    if streamed:
        out = Screened(stream(chunk(content=content), chunk(finish="stop"))).data
    else:
        body = json.loads(json_reply("")[1])  # type: ignore[arg-type]
        body["choices"][0]["message"]["content"] = content
        out = Screened(json.dumps(body).encode(), stream=False).data
    assert b"[EMAIL]" in out
    assert b"corp.example" not in out


def test_arguments_are_looked_at_whole_whatever_their_pieces() -> None:
    parts = ['{"to":"bo', "b\\u0040corp.", 'example"}']
    later = [call_chunk(1, arguments=each) for each in parts[1:]]
    pieces = [call_chunk(1, "send", parts[0]), call_chunk(0, "list", '{"a": 1}'), *later]
    out = heard(Screened(stream(*pieces, chunk(finish="tool_calls"))).data)
    assert out["texts"] == {"0.call1": 'send{"to":"[EMAIL]"}', "0.call0": 'list{"a": 1}'}


@pytest.mark.parametrize("streamed", [True, False])
def test_thoughts_among_the_parts_lose_no_word(streamed: bool) -> None:
    parts = [{"type": "thinking", "thinking": "one two"}, {"type": "text", "text": "three four"}]
    if streamed:
        out = Screened(stream(chunk(content=parts), chunk(finish="stop"))).data
    else:
        body = json.loads(json_reply("")[1])  # type: ignore[arg-type]
        body["choices"][0]["message"]["content"] = parts
        out = Screened(json.dumps(body).encode(), stream=False).data
    for word in (b"one", b"two", b"three", b"four"):
        assert out.count(word) == 1


@pytest.mark.parametrize("streamed", [True, False])
def test_calls_of_the_old_form_are_looked_at(streamed: bool) -> None:
    call = {"name": "send", "arguments": json.dumps({"to": MAIL})}
    if streamed:
        half = len(call["arguments"]) // 2
        first, rest = {**call, "arguments": call["arguments"][:half]}, {"arguments": call["arguments"][half:]}
        out = Screened(
            stream(chunk(function_call=first), chunk(function_call=rest), chunk(finish="function_call"))
        ).data
    else:
        body = json.loads(json_reply(None)[1])  # type: ignore[arg-type]
        body["choices"][0]["message"]["function_call"] = call
        out = Screened(json.dumps(body).encode(), stream=False).data
    assert b"[EMAIL]" in out
    assert b"corp.example" not in out


@pytest.mark.parametrize("streamed", [True, False])
def test_what_nobody_knows_is_looked_at_as_well(streamed: bool) -> None:
    strange = {"mcp_call": {"arguments": {"to": MAIL}}, "content": "x"}
    body: Any = chunk(**strange) if streamed else json.loads(json_reply("x")[1])  # type: ignore[arg-type]
    if not streamed:
        body["choices"][0]["message"] |= strange
    data = stream(body, chunk(finish="stop")) if streamed else json.dumps(body).encode()
    out = Screened(data, stream=streamed).data
    assert b"mcp_call" in out
    assert b"corp.example" not in out


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"choices": 1}', b'{"choices": [1]}', b'{"error": {"message": "x"}}']
)
@pytest.mark.parametrize("streamed", [True, False])
def test_what_cannot_be_read_is_left_to_the_dialect(data: bytes, streamed: bool) -> None:
    given = b"data: " + data + b"\n\n" if streamed else data
    assert Screened(given, stream=streamed).data == given


def test_bytes_after_the_last_event_are_passed_on() -> None:
    assert Screened(b': comment\n\ndata: {"cho', 3).data == b': comment\n\ndata: {"cho'


def test_the_screen_does_not_care_how_bytes_are_cut() -> None:
    data = stream(
        *(chunk(content=each) for each in _letters(f"Ask {MAIL}, use {TOKEN} or 日本.")), chunk(finish="stop")
    )
    assert len({Screened(data, size).data for size in (0, 1, 2, 3, 64, 1000)}) == 1


def _letters(text: str) -> Sequence[str]:
    return [text[at : at + 3] for at in range(0, len(text), 3)]
