"""Embeddings: a strict request, and a reply that is checked and otherwise passed on as it came."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine import adapter
from deployments.engine.adapter import EngineStartFailed
from deployments.engine.options import EngineSettings
from deployments.engine.settings import ENGINE_PATHS
from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.dialects.embeddings import PATH, EmbeddingsCodec, EmbeddingsReply, Expected
from deployments.ports import Effort, ModelId, Usage
from tests.fakes import FRAMING
from tests.unit.ingress.test_chat_stream import RECEIPT, drive

CODEC = EmbeddingsCodec()
MODEL = {"model": "embedder"}


def body(*vectors: object, **more: object) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0}
    return json.dumps({"object": "list", "model": "embedder", "data": data, "usage": usage, **more}).encode()


def refused(**request: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        CODEC.read(request)
    assert "secret" not in str(caught.value)
    return caught.value


# --- the request -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_input", "inputs", "texts", "ids"),
    [
        ("hello", 1, ("hello",), 0),
        (["a", "b"], 2, ("a", "b"), 0),
        ([1, 2, 3], 1, (), 3),
        ([[1], [2, 3]], 2, (), 2),
        (["x"] * 2048, 2048, ("x",) * 2048, 0),
        (list(range(3000)), 1, (), 3000),
    ],
)
def test_an_input_is_text_or_token_ids_or_a_batch_of_either(
    given_input: object, inputs: int, texts: tuple[str, ...], ids: int
) -> None:
    asked = CODEC.read({**MODEL, "input": given_input})
    assert asked.extra == Expected(inputs, False)
    assert asked.prompt_texts == texts
    assert asked.prompt_ids == ids


def test_nothing_is_reserved_for_an_answer() -> None:
    asked = CODEC.read({**MODEL, "input": "hello"})
    assert (asked.max_tokens, asked.choices, asked.stream) == (0, 1, False)


def test_the_engine_gets_the_request_without_what_means_nothing_to_it() -> None:
    asked = CODEC.read({**MODEL, "input": ["a"], "encoding_format": "base64", "dimensions": 256, "user": "u"})
    assert asked.engine_path == PATH == "/v1/embeddings"
    assert json.loads(CODEC.engine_body(asked, ModelId("there"), Effort.LOW)) == {
        "model": "there", "input": ["a"], "encoding_format": "base64", "dimensions": 256
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"input": "secret"}, "model"),
        ({"model": "auto", "input": "secret"}, "model"),
        ({"model": "", "input": "secret"}, "model"),
        (MODEL, "input"),
        ({**MODEL, "input": ""}, "input"),
        ({**MODEL, "input": []}, "input"),
        ({**MODEL, "input": ["secret", ""]}, "input[1]"),
        ({**MODEL, "input": [[1], []]}, "input[1]"),
        ({**MODEL, "input": ["secret"] * 2049}, "input"),
        ({**MODEL, "input": [[1]] * 2049}, "input"),
        ({**MODEL, "input": {"text": "secret"}}, "input"),
        ({**MODEL, "input": "secret", "encoding_format": "secret"}, "encoding_format"),
        ({**MODEL, "input": "secret", "dimensions": 0}, "dimensions"),
        ({**MODEL, "input": "secret", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({**MODEL, "input": "secret", "stream": True}, "stream"),
    ],
)
def test_a_bad_request_names_the_field_and_never_its_value(request_: dict, param: str) -> None:
    assert refused(**request_).param == param


@pytest.mark.parametrize("mixed", [["secret", 1], [1, [2]], [True], [-1], [1.5], [[-1]]])
def test_inputs_of_mixed_or_odd_types_are_refused(mixed: list) -> None:
    assert (refused(**MODEL, input=mixed).param or "").startswith("input")


# --- the reply ---------------------------------------------------------------------------------------------------


def test_the_body_passes_byte_for_byte() -> None:
    reply = CODEC.filter(CODEC.read({**MODEL, "input": ["a", "b"]}), FRAMING)
    sent = b' {"object":"list","data":[{"index":0,"embedding":[0.10,1E-3]},{"index":1,"embedding":[2,-0.0]}]} \n'
    out, judged = drive(reply, [sent])
    assert out == sent
    assert judged == []
    assert reply.usage is None


def test_the_audit_record_is_quoted_and_no_digit_changes() -> None:
    reply = EmbeddingsReply(Expected(1, False))
    reply.receipt(RECEIPT)
    out, _ = drive(reply, [b'{"data":[{"index":0,"embedding":[0.10]}]}\n'])
    assert out == b'{"data":[{"index":0,"embedding":[0.10]}],"x_gatehouse":{"audit":{"index":3,"leaf":"%s"}}}' % (
        b"03" * 32
    )


def test_the_word_of_a_gateway_behind_this_one_is_replaced() -> None:
    reply = EmbeddingsReply(Expected(1, False))
    reply.receipt(RECEIPT)
    out, _ = drive(reply, [body([0.5], x_gatehouse={"audit": {"index": 99}})])
    assert out.count(b"x_gatehouse") == 1
    assert json.loads(out)["x_gatehouse"]["audit"]["index"] == 3


def test_what_was_read_is_counted() -> None:
    reply = EmbeddingsReply(Expected(1, False))
    drive(reply, [body([0.5])])
    assert reply.usage == Usage(input_tokens=9)
    assert reply.saw_text, "an answer, which the session memory must not take for an empty one"
    assert reply.finish_reasons == ()


@pytest.mark.parametrize("vector", ["AACAPw==", [0.25]])
def test_base64_may_be_answered_with_numbers(vector: object) -> None:
    out, _ = drive(EmbeddingsReply(Expected(1, True)), [body(vector)])
    assert json.loads(out)["data"][0]["embedding"] == vector


@given(data=st.data())
def test_any_chunking_gives_the_same_bytes(data: st.DataObject) -> None:
    recorded = body([0.5, -1e-9], [1, 2])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(recorded)), max_size=20)))
    pieces = [recorded[a:b] for a, b in zip([0, *cuts], [*cuts, len(recorded)], strict=True)]
    assert drive(EmbeddingsReply(Expected(2, False)), pieces)[0] == recorded


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"[]",
        b'{"object":"list"}',
        b'{"data":{}}',
        b'{"data":[1]}',
        b'{"data":[{"embedding":[0.5]}]}',
        body(),
        body([0.5], [0.5]),
        body([]),
        body("AACAPw=="),
        body(["0.5"]),
        body([None]),
        body([True]),
        body([float("nan")]),
        body([0.5]).replace(b'"index": 0', b'"index": 1'),
        body([0.5])[:-1],
        body([0.5], usage={"prompt_tokens": "many"}),
    ],
)
def test_anything_but_the_vectors_is_an_engine_failure(junk: bytes) -> None:
    with pytest.raises(EngineFailed):
        drive(EmbeddingsReply(Expected(1, False)), [junk])


def test_another_attempt_expects_the_same() -> None:
    again = EmbeddingsReply(Expected(2, False)).again()
    with pytest.raises(EngineFailed):
        drive(again, [body([0.5])])


# --- the engine --------------------------------------------------------------------------------------------------


def mind(*paths: str) -> SimpleNamespace:
    routes = [SimpleNamespace(path=path, methods={"POST"}) for path in paths]
    settings = EngineSettings(model="m", revision="r1", source="/models/m")
    return adapter._mind(SimpleNamespace(state=SimpleNamespace(), routes=routes), settings)


def test_a_model_that_generates_need_not_embed() -> None:
    assert mind(*ENGINE_PATHS - {PATH}).should_exit is False


def test_a_model_that_embeds_need_not_generate() -> None:
    assert mind(PATH, "/tokenize", "/detokenize").should_exit is False


@pytest.mark.parametrize("paths", [{PATH}, ENGINE_PATHS - {PATH, "/v1/messages"}, {"/tokenize", "/detokenize"}])
def test_a_model_that_does_neither_wholly_does_not_start(paths: frozenset[str]) -> None:
    with pytest.raises(EngineStartFailed):
        mind(*paths)
