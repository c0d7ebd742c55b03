"""Completions: what a request becomes for the engine, with and without a `suffix`."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.dialects.completions import CompletionCodec, CompletionReply, CompletionStream
from deployments.ingress.dialects.fim import FimAsk, FimTemplate
from deployments.ingress.dialects.values import Asked
from deployments.ports import Effort, ModelId
from tests.fakes import FRAMING, USAGE, chunk, json_reply, sse
from tests.unit.ingress.test_chat_stream import RECEIPT, drive, parsed

CODER = ModelId("coder")
TEMPLATE = FimTemplate("<P>", "<S>", "<M>", ("<E>", "<P>"))
CODEC = CompletionCodec({CODER: TEMPLATE}, emulate=True, default=CODER)
EMULATING = CompletionCodec(emulate=True)
PLAIN = CompletionCodec()
BOTH = {"prompt": "before", "suffix": "after"}


def engine_body(codec: CompletionCodec, asked: Asked, effort: Effort = Effort.LOW) -> dict:
    return json.loads(codec.engine_body(asked, asked.model or ModelId("demo-20b"), effort))


def refused(codec: CompletionCodec, **body: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        codec.read(body)
    assert "before" not in str(caught.value)
    return caught.value


# --- without a suffix --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [None, ""])
def test_an_empty_suffix_is_no_suffix(suffix: str | None) -> None:
    asked = CODEC.read({"prompt": "before", "suffix": suffix})
    assert asked.model is None
    assert asked.engine_path == "/v1/completions"
    assert engine_body(CODEC, asked) == {"prompt": "before", "model": "demo-20b"}


def test_a_prompt_that_the_client_has_rendered_passes_as_it_is() -> None:
    asked = PLAIN.read({"model": "coder", "prompt": "<P>before<S>after<M>", "stop": ["<E>"], "max_tokens": 8})
    assert engine_body(PLAIN, asked) == {
        "model": "coder", "prompt": "<P>before<S>after<M>", "stop": ["<E>"], "max_tokens": 8
    }  # fmt: skip


def test_an_empty_prompt_needs_a_suffix() -> None:
    assert refused(PLAIN, prompt="").param == "prompt"


# --- a model that was trained for it -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["coder", "auto", "", None])
def test_a_suffix_is_rendered_for_the_model_that_fills_in_the_middle(model: str | None) -> None:
    asked = CODEC.read({**BOTH, "model": model})
    assert asked.model == CODER
    assert asked.requested_model == (model or "auto")
    assert asked.engine_path == "/v1/completions"
    assert asked.prompt_texts == ("<P>before<S>after<M>",)
    assert asked.extra == FimAsk("before", "after", False)
    body = engine_body(CODEC, asked)
    assert body["prompt"] == "<P>before<S>after<M>"
    assert body["stop"] == ["<E>", "<P>"]
    assert body["skip_special_tokens"] is False
    assert "suffix" not in body
    assert "reasoning_effort" not in body


@pytest.mark.parametrize("stop", ["\n\n", ["\n\n", "<E>"]])
def test_the_templates_stops_are_added_to_the_clients(stop: object) -> None:
    assert engine_body(CODEC, CODEC.read({**BOTH, "stop": stop}))["stop"] == ["\n\n", "<E>", "<P>"]


def test_everything_else_of_the_request_stays() -> None:
    body = {**BOTH, "n": 2, "max_tokens": 64, "temperature": 0.2, "logprobs": 1, "skip_special_tokens": True,
            "stream": True}  # fmt: skip
    asked = CODEC.read(body)
    assert (asked.choices, asked.max_tokens, asked.effort) == (2, 64, None)
    sent = engine_body(CODEC, asked)
    assert {name: sent[name] for name in ("n", "max_tokens", "temperature", "logprobs", "skip_special_tokens")} == {
        "n": 2, "max_tokens": 64, "temperature": 0.2, "logprobs": 1, "skip_special_tokens": True
    }  # fmt: skip
    assert sent["stream_options"] == {"include_usage": True}


def test_a_cursor_at_the_beginning_of_a_file_has_an_empty_prompt() -> None:
    assert CODEC.read({"prompt": "", "suffix": "after"}).body["prompt"] == "<P><S>after<M>"


def test_a_rendered_prompts_reply_is_an_ordinary_one() -> None:
    assert isinstance(CODEC.filter(CODEC.read(BOTH), FRAMING), CompletionReply)
    assert isinstance(CODEC.filter(CODEC.read({**BOTH, "stream": True}), FRAMING), CompletionStream)


# --- a model that has to be asked in words -----------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "model"), [(CODEC, "demo-20b"), (EMULATING, "demo-20b"), (EMULATING, "auto")])
def test_a_suffix_for_another_model_becomes_a_chat(codec: CompletionCodec, model: str) -> None:
    asked = codec.read({**BOTH, "model": model, "temperature": 0, "seed": 7, "stop": "\n\n", "max_tokens": 64})
    assert asked.model == (None if model == "auto" else "demo-20b")
    assert asked.engine_path == "/v1/chat/completions"
    assert asked.effort is Effort.LOW
    assert asked.extra == FimAsk("before", "after", True, ("\n\n",))
    body = engine_body(codec, asked)
    assert body["reasoning_effort"] == "low"
    assert (body["temperature"], body["seed"]) == (0, 7)
    assert not {"prompt", "suffix", "stop", "stream"} & body.keys()
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == "<before>before</before><after>after</after>"


@pytest.mark.parametrize(("limit", "expected"), [(64, 64 + 512), (None, 256 + 512)])
def test_the_reasoning_gets_room_beside_the_clients_limit(limit: int | None, expected: int) -> None:
    asked = EMULATING.read({**BOTH, "max_tokens": limit})
    assert asked.max_tokens == expected
    assert asked.body["max_tokens"] == expected


def test_both_texts_are_counted() -> None:
    (text,) = EMULATING.read(BOTH).prompt_texts
    assert "before" in text
    assert "after" in text


def test_an_emulated_stream_is_written_as_a_completion() -> None:
    asked = EMULATING.read({**BOTH, "stream": True, "stream_options": {"include_usage": True}})
    assert engine_body(EMULATING, asked)["stream_options"] == {"include_usage": True}
    recorded = sse(chunk(role="assistant", content=""), chunk(reasoning="hm"), chunk(content="mid"),
                   chunk(finish="stop"), USAGE, "[DONE]")  # fmt: skip
    out, _ = drive(EMULATING.filter(asked, FRAMING), [recorded])
    events = parsed(out)
    assert [event["choices"][0]["text"] for event in events[:-1]] == ["mid", ""]
    assert events[-2]["x_gatehouse"] == {"fim": "emulated"}
    assert events[-1]["usage"]["total_tokens"] == 16


def test_an_emulated_json_reply_is_written_as_a_completion() -> None:
    out, _ = drive(EMULATING.filter(EMULATING.read(BOTH), FRAMING), [json_reply("mid")[1]])
    body = json.loads(out)
    assert body["choices"][0]["text"] == "mid"
    assert body["x_gatehouse"] == {"fim": "emulated"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 2), ("logprobs", 0), ("min_tokens", 4), ("ignore_eos", True), ("stop_token_ids", [1]),
     ("skip_special_tokens", False)],
)  # fmt: skip
def test_what_a_chat_cannot_do_is_refused_by_name(name: str, value: object) -> None:
    error = refused(EMULATING, **BOTH, **{name: value})
    assert (error.param, error.code) == (name, "unsupported_parameter")


# --- refusals ----------------------------------------------------------------------------------------------------


def test_without_template_and_emulation_a_suffix_is_refused() -> None:
    error = refused(PLAIN, **BOTH)
    assert (error.param, error.code) == ("suffix", "unsupported_parameter")
    error = refused(CompletionCodec({CODER: TEMPLATE}), **BOTH, model="auto")
    assert (error.param, error.code) == ("suffix", "unsupported_parameter")


@pytest.mark.parametrize("prompt", [["before"], [1, 2], [[1], [2]], []])
@pytest.mark.parametrize("codec", [CODEC, EMULATING, PLAIN])
def test_a_suffix_needs_one_text_before_it(codec: CompletionCodec, prompt: object) -> None:
    assert refused(codec, prompt=prompt, suffix="after").param == "suffix"


@pytest.mark.parametrize("codec", [CODEC, EMULATING])
def test_echo_and_suffix_exclude_each_other(codec: CompletionCodec) -> None:
    assert refused(codec, **BOTH, echo=True).param == "echo"
    assert codec.read({**BOTH, "echo": False})


@pytest.mark.parametrize("stop", ["", ["x", ""]])
@pytest.mark.parametrize("codec", [CODEC, EMULATING])
def test_an_empty_stop_string_is_refused(codec: CompletionCodec, stop: object) -> None:
    assert refused(codec, **BOTH, stop=stop).param == "stop"


def test_a_suffix_of_the_wrong_type_is_refused() -> None:
    assert refused(CODEC, prompt="before", suffix=["after"]).param == "suffix"


# --- replies -----------------------------------------------------------------------------------------------------


def text(value: str, finish: str | None = None) -> dict:
    return {"id": "cmpl-1", "choices": [{"index": 0, "text": value, "finish_reason": finish}]}


@given(data=st.data())
def test_any_chunking_of_a_completion_gives_the_same_bytes(data: st.DataObject) -> None:
    recorded = sse(text("Grüße "), text("\n\n"), text("ok", "length"), {**USAGE, "id": "cmpl-1"}, "[DONE]")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(recorded)), max_size=40)))
    pieces = [recorded[a:b] for a, b in zip([0, *cuts], [*cuts, len(recorded)], strict=True)]
    whole, _ = drive(CompletionStream(True, FRAMING), [recorded])
    assert drive(CompletionStream(True, FRAMING), pieces)[0] == whole


def test_a_json_completion_quotes_its_audit_record() -> None:
    reply = CompletionReply()
    reply.receipt(RECEIPT)
    out, _ = drive(reply, [json.dumps({**text("x", "stop"), "usage": {"prompt_tokens": 3}}).encode()])
    assert json.loads(out)["x_gatehouse"]["audit"]["index"] == 3
    assert reply.finish_reasons == ("stop",)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices": 1}'])
def test_junk_is_an_engine_failure(body: bytes) -> None:
    with pytest.raises(EngineFailed):
        drive(CompletionReply(), [body])


def test_a_long_silence_is_an_empty_event() -> None:
    (event,) = parsed(CompletionStream(False, FRAMING).keepalive(60.0))
    assert (event["id"], event["object"], event["model"]) == (
        f"cmpl-{FRAMING.reply_id}", "text_completion", FRAMING.model
    )  # fmt: skip
    assert event["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}]
