"""Anthropic's request bodies: what they become as chat, and what is refused by name."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.messages import MessagesCodec, read_count
from deployments.ingress.dialects.values import Asked
from deployments.ingress.session import session_of
from deployments.ports import Dialect, Effort, ModelId
from tests.fakes_ledger import InMemoryLedger

BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197; cc_entrypoint=sdk-cli; cch=00e1f;"}
SHELL = {"name": "Bash", "description": "Run a command", "input_schema": {"type": "object", "properties": {}}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "git status", "n": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "clean"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}}
USER = {"role": "user", "content": "hi"}


def read(*messages: object, **more: object) -> Asked:
    body: dict[str, Any] = {"max_tokens": 100, "messages": list(messages) or [USER], **more}
    return MessagesCodec().read(body)


def chat(*messages: object, **more: object) -> list[Any]:
    return read(*messages, **more).body["messages"]  # type: ignore[return-value]


def user(*blocks: object) -> dict[str, object]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: object) -> dict[str, object]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str, **more: object) -> dict[str, object]:
    return {"type": "text", "text": words, **more}


def refusal(*messages: object, **more: object) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        read(*messages, **more)
    assert caught.value.param is None or caught.value.param in str(caught.value)  # Anthropic's errors have no `param`
    return caught.value.param, caught.value.code


def test_a_plain_request_becomes_a_chat_request() -> None:
    asked = read(
        USER, model="gpt-oss-20b", system="Be brief.", stop_sequences=["END"], temperature=1, top_p=0.9, top_k=5,
        stream=True,
    )  # fmt: skip
    assert asked.dialect is Dialect.MESSAGES
    assert asked.engine_path == "/v1/chat/completions"
    assert (asked.model, asked.requested_model, asked.stream) == ("gpt-oss-20b", "gpt-oss-20b", True)
    assert asked.body == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "max_tokens": 100, "stop": ["END"], "temperature": 1, "top_p": 0.9, "top_k": 5,
    }  # fmt: skip
    assert asked.max_tokens == 100


def test_the_engine_is_asked_for_model_effort_and_usage() -> None:
    body = json.loads(MessagesCodec().engine_body(read(stream=True), ModelId("m"), Effort.HIGH))
    assert body["model"] == "m"
    assert body["reasoning_effort"] == "high"
    assert body["stream_options"] == {"include_usage": True}
    assert "stream" not in json.loads(MessagesCodec().engine_body(read(), ModelId("m"), Effort.LOW))


def test_an_automatic_model_is_no_wish() -> None:
    assert read(model="auto").model is None
    assert read().requested_model == "auto"


# --- what Claude Code sends --------------------------------------------------------------------------------------

NAMES = [
    "Agent", "Bash", "BashOutput", "CronCreate", "CronDelete", "CronList", "Edit", "EnterPlanMode", "ExitPlanMode",
    "Glob", "Grep", "KillShell", "NotebookEdit", "Read", "Skill", "TaskCreate", "TaskGet", "TaskList", "TaskOutput",
    "TaskStop", "TaskUpdate", "WebFetch", "WebSearch", "Write",
]  # fmt: skip


def claude_code(cch: str) -> dict[str, Any]:
    """The shape of a second turn of Claude Code 2.1.197, as far as it was captured."""
    ephemeral = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    return {
        "model": "auto",
        "max_tokens": 32000,
        "stream": True,
        "system": [
            text(f"x-anthropic-billing-header: cc_version=2.1.197; cc_entrypoint=sdk-cli; cch={cch};"),
            text("You are Claude Code.", **ephemeral),
            text("Follow the instructions.", **ephemeral),
        ],
        "messages": [
            user(text("<system-reminder>today</system-reminder>"), text("say hello", **ephemeral)),
            {"role": "system", "content": "The user's shell is bash."},
            assistant(
                {"type": "thinking", "thinking": "I should look.", "signature": "abc"},
                {"type": "redacted_thinking", "data": "xyz"},
                text("Looking."),
                USE,
            ),
            user({**RESULT, **ephemeral}, text("go on")),
        ],
        "tools": [{**SHELL, "name": name, "eager_input_streaming": True} for name in NAMES],
        "thinking": {"type": "adaptive", "display": "summarized"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "metadata": {"user_id": '{"device_id":"d","session_id":"s1"}'},
        "temperature": 1,
    }


def test_a_body_of_claude_code_becomes_a_chat() -> None:
    asked = MessagesCodec().read(claude_code("1"))
    assert len(NAMES) == 24
    assert asked.offered_tools == frozenset(NAMES)
    assert asked.effort is Effort.HIGH
    assert asked.dropped_tools == ()
    assert asked.body["messages"] == [
        {"role": "system", "content": "You are Claude Code.\n\nFollow the instructions."},
        {"role": "user", "content": "<system-reminder>today</system-reminder>\n\nsay hello"},
        {"role": "system", "content": "The user's shell is bash."},
        {
            "role": "assistant",
            "content": "Looking.",
            "reasoning_content": "I should look.",
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {"name": "Bash", "arguments": '{"command":"git status","n":1}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "clean"},
        {"role": "user", "content": "go on"},
    ]
    assert set(asked.body) == {"messages", "max_tokens", "tools", "temperature"}


def test_the_billing_header_reaches_neither_engine_nor_session_nor_count() -> None:
    principal = InMemoryLedger().add_key("a")
    one, other = (MessagesCodec().read(claude_code(cch)) for cch in ("1", "2"))
    assert "billing" not in json.dumps(one.body)
    assert not any("billing" in each for each in one.prompt_texts)
    assert session_of(principal, {}, {}, one.body) == session_of(principal, {}, {}, other.body)


@pytest.mark.parametrize("system", ["{}\nRest.", [text("{}"), text("Rest.")]])
def test_the_billing_header_goes_wherever_it_stands(system: Any) -> None:
    header = str(BILLING["text"])
    filled = json.loads(json.dumps(system).replace("{}", header))
    assert chat(USER, system=filled)[0] == {"role": "system", "content": "Rest."}
    assert chat({"role": "system", "content": [BILLING]}, USER) == [USER]


def test_a_system_of_the_billing_header_alone_is_none() -> None:
    assert chat(USER, system=[BILLING]) == [USER]
    assert chat(USER, system=BILLING["text"]) == [USER]


# --- messages ----------------------------------------------------------------------------------------------------


def test_results_go_before_the_text_of_their_message() -> None:
    turns = chat(USER, assistant(USE), user(text("and now"), RESULT))
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "user"]
    assert turns[1]["content"] is None


def test_results_may_come_in_several_messages() -> None:
    second = {**USE, "id": "toolu_2"}
    answer = {**RESULT, "tool_use_id": "toolu_2"}
    turns = chat(USER, assistant(USE), assistant(second), user(text("first"), RESULT), user(answer))
    assert [turn["role"] for turn in turns] == ["user", "assistant", "assistant", "tool", "tool", "user"]


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (None, ""),
        ("plain", "plain"),
        ([], ""),
        ([text("a"), text("b", citations=[])], "a\nb"),
        ([text("shot:"), IMAGE], "shot:\n[image omitted]"),
        ([PDF], "[document omitted]"),
        ([{"type": "document", "source": {"type": "text", "data": "words"}, "title": "T"}], "T\n\nwords"),
        ([{"type": "tool_reference", "tool_name": "Grep"}], "[tool Grep]"),
        ([{"type": "search_result", "title": "T", "source": "S", "content": [text("x")]}], "T\nS\n\nx"),
    ],
)
def test_a_result_is_told_in_words(content: object, seen: str) -> None:
    assert chat(USER, assistant(USE), user({**RESULT, "content": content}))[2]["content"] == seen


@pytest.mark.parametrize(("words", "seen"), [("no such file", "Error: no such file"), ("Error: x", "Error: x")])
def test_a_failed_result_says_so(words: str, seen: str) -> None:
    turns = chat(USER, assistant(USE), user({**RESULT, "content": words, "is_error": True}))
    assert turns[2]["content"] == seen


@pytest.mark.parametrize(
    "source", [{"type": "text", "data": "words"}, {"type": "content", "content": "words"},
               {"type": "content", "content": [text("words")]}],
)  # fmt: skip
def test_a_document_in_words_is_text(source: object) -> None:
    document = {"type": "document", "source": source, "title": "T", "context": "C", "citations": {"enabled": True}}
    assert chat(user(document, text("sum up"))) == [{"role": "user", "content": "T\n\nC\n\nwords\n\nsum up"}]


def test_empty_texts_are_skipped() -> None:
    turns = chat(user(text(""), text("hi")), assistant(text("")), assistant(text(""), text("yes")), user(text("ok")))
    assert [turn["content"] for turn in turns] == ["hi", "yes", "ok"]


def test_what_is_replayed_of_our_own_reply_is_one_turn() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "Z2F0ZWhvdXNl"}
    turns = chat(USER, assistant(thinking, text("Working."), text("[gatehouse:held id=apr_1]")), user(text("go on")))
    assert turns[1] == {
        "role": "assistant",
        "content": "Working.\n\n[gatehouse:held id=apr_1]",
        "reasoning_content": "hm",
    }


def test_a_call_without_a_result_may_end_the_conversation() -> None:
    assert [turn["role"] for turn in chat(USER, assistant(USE))] == ["user", "assistant"]


def test_an_id_may_come_again_once_it_was_answered() -> None:
    assert len(chat(USER, assistant(USE), user(RESULT), assistant(USE), user(RESULT))) == 5


def test_what_certainly_reaches_the_model_is_counted() -> None:
    asked = read(USER, assistant(USE), user(RESULT), system="S", tools=[SHELL])
    assert asked.prompt_texts == (
        "S", "hi", '{"command":"git status","n":1}', "clean", "Run a command", '{"type": "object", "properties": {}}'
    )  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([user(IMAGE)], "messages[0].content[0].type"),
        ([user(text("x"), PDF)], "messages[0].content[1].type"),
        ([USER, assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})],
         "messages[1].content[0].type"),
        ([USER, assistant({"type": "web_search_tool_result", "tool_use_id": "s", "content": {"error_code": "x"}})],
         "messages[1].content[0].type"),
        ([USER, assistant(RESULT)], "messages[1].content[0].type"),
        ([user(USE)], "messages[0].content[0].type"),
        ([{"role": "system", "content": [IMAGE]}, USER], "messages[0].content[0].type"),
        ([USER, assistant(USE), user({**RESULT, "content": [text("x"), {"type": "browser_state", "tabs": []}]})],
         "messages[2].content[0].content[1].type"),
        ([user(RESULT)], "messages[0].content[0].tool_use_id"),
        ([USER, assistant(USE), user(RESULT, RESULT)], "messages[2].content[1].tool_use_id"),
        ([USER, assistant(USE), USER], "messages[1].content[0]"),
        ([USER, assistant(USE), USER, assistant(text("x"))], "messages[1].content[0]"),
        ([USER, assistant(USE, USE)], "messages[1].content[1].id"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 7}], "messages[0].content"),
        ([user({"text": "x"})], "messages[0].content[0].type"),
        ([user({"type": ["text"]})], "messages[0].content[0].type"),
        ([user({"type": "text", "text": 7})], "messages[0].content[0].text"),
        ([USER, assistant({**USE, "input": "{}"})], "messages[1].content[0].input"),
        ([USER, assistant(USE), user({**RESULT, "content": [{"type": "text"}]})],
         "messages[2].content[0].content[0].text"),
        ([user(text(""))], "messages"),
        ([{"role": "system", "content": "x"}], "messages"),
    ],
)  # fmt: skip
def test_what_has_no_place_in_a_chat_is_refused_by_name(messages: list[object], param: str) -> None:
    assert refusal(*messages)[0] == param


def test_a_strange_type_is_not_repeated_in_the_error() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(user({"type": "a\nb sk-secret"}))
    assert "secret" not in str(caught.value)


# --- fields ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"max_tokens": None}, "max_tokens", "missing_required_parameter"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": "9"}, "max_tokens", "invalid_value"),
        ({"temperature": 1.5}, "temperature", "invalid_value"),
        ({"stop_sequences": [""]}, "stop_sequences[0]", "invalid_value"),
        ({"system": [IMAGE]}, "system[0].type", "invalid_value"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"chat_template": "x"}, "chat_template", "unsupported_parameter"),
        ({"mcp_servers": [{"type": "url", "url": "https://x"}]}, "mcp_servers", "unsupported_parameter"),
        ({"container": "c_1"}, "container", "unsupported_parameter"),
        ({"compaction": {"type": "enabled"}}, "compaction", "unsupported_parameter"),
        ({"thread": {"type": "create"}}, "thread", "unsupported_parameter"),
        ({"inference_geo": "us"}, "inference_geo", "unsupported_parameter"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type", "invalid_value"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort", "invalid_value"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type", "invalid_value"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type", "unsupported_tool"),
        ({"tools": [SHELL, {"type": "text_editor_20250728", "name": "e"}]}, "tools[1].type", "unsupported_tool"),
        ({"tools": [{"type": "computer_20251124", "name": "c"}]}, "tools[0].type", "unsupported_tool"),
        ({"tools": [{"type": "memory_20250818", "name": "m"}]}, "tools[0].type", "unsupported_tool"),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "m"}]}, "tools[0].type", "unsupported_tool"),
        ({"tools": [{"name": "Bash"}]}, "tools[0].input_schema", "missing_required_parameter"),
        ({"tools": [{**SHELL, "name": "rm -rf"}]}, "tools[0].name", "invalid_value"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "tool", "name": "x"}, "tools": [SHELL]}, "tool_choice.name", "invalid_value"),
    ],
)
def test_fields_are_refused_by_name(more: dict[str, object], param: str, code: str) -> None:
    assert refusal(**more) == (param, code)


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": {"user_id": "u"}}, {"service_tier": "auto"}, {"betas": ["x"]}, {"speed": "fast"},
        {"context_management": {"edits": []}}, {"cache_control": {"type": "ephemeral"}}, {"diagnostics": {}},
        {"fallbacks": "default"}, {"mcp_servers": []}, {"container": None}, {"tool_choice": {"type": "auto"}},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_accepted_and_dropped(more: dict[str, object]) -> None:
    assert set(read(**more).body) == {"messages", "max_tokens"}


@pytest.mark.parametrize(
    ("more", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, None),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, Effort.LOW),
        ({"output_config": {"effort": "max"}}, Effort.HIGH),
        ({"output_config": {"effort": "minimal"}}, Effort.LOW),
        ({"output_config": {"effort": "medium"}, "thinking": {"type": "disabled"}}, Effort.MEDIUM),
        ({"output_config": {"effort": None}, "thinking": {"type": "disabled"}}, Effort.LOW),
    ],
)
def test_effort_is_read_from_output_config_before_thinking(more: dict[str, object], effort: Effort | None) -> None:
    assert read(**more).effort is effort


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_a_schema_becomes_the_response_format(place: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    asked = read(**{place: {"format": wanted} if place == "output_config" else wanted})
    assert asked.body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
    }


# --- tools -------------------------------------------------------------------------------------------------------


def test_client_tools_become_functions() -> None:
    asked = read(tools=[SHELL, {**SHELL, "type": "custom", "name": "mcp__" + "x" * 100, "cache_control": None}])
    assert asked.body["tools"][0] == {  # type: ignore[index,call-overload]
        "type": "function",
        "function": {"name": "Bash", "description": "Run a command", "parameters": SHELL["input_schema"]},
    }
    assert asked.offered_tools == {"Bash", "mcp__" + "x" * 100}


def test_tools_that_a_server_would_run_are_dropped_and_named() -> None:
    hosted = ["web_search_20250305", "web_fetch_20260209", "code_execution_20250825", "tool_search_tool_bm25_20251119"]
    asked = read(tools=[*({"type": kind, "name": "x"} for kind in hosted), SHELL])
    assert asked.dropped_tools == tuple(hosted)
    assert asked.offered_tools == {"Bash"}


def test_a_request_whose_tools_were_all_dropped_has_none() -> None:
    asked = read(tools=[{"type": "web_search_20250305", "name": "web_search"}], tool_choice={"type": "auto"})
    assert set(asked.body) == {"messages", "max_tokens"}


@pytest.mark.parametrize(
    ("choice", "seen"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "Bash"}, {"tool_choice": {"type": "function", "function": {"name": "Bash"}}}),
        ({"type": "auto", "disable_parallel_tool_use": True}, {"tool_choice": "auto", "parallel_tool_calls": False}),
        ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto"}),
    ],
)
def test_the_choice_of_a_tool_is_translated(choice: dict[str, object], seen: dict[str, object]) -> None:
    body = read(tools=[SHELL], tool_choice=choice).body
    assert {name: body[name] for name in body if name in ("tool_choice", "parallel_tool_calls")} == seen


def test_no_tool_is_on_offer_when_none_may_be_called() -> None:
    assert read(tools=[SHELL], tool_choice={"type": "none"}).offered_tools == frozenset()


# --- counting ----------------------------------------------------------------------------------------------------


def count(*messages: object, **more: object) -> Asked:
    body: dict[str, Any] = {"messages": list(messages), **more}
    return read_count(body)


def test_a_count_needs_no_limit() -> None:
    asked = count(USER, system="S", tools=[SHELL])
    assert asked.prompt_texts[:2] == ("S", "hi")
    assert asked.max_tokens is None
    assert set(asked.body) == {"messages", "tools"}


def test_a_count_ignores_what_shapes_the_answer() -> None:
    asked = count(USER, max_tokens=9, stream=True, temperature=0.5)
    assert (asked.max_tokens, asked.stream) == (None, False)
    assert set(asked.body) == {"messages"}


def test_a_count_refuses_what_a_request_would_be_refused_for() -> None:
    with pytest.raises(InvalidRequest) as caught:
        count(user(IMAGE))
    assert caught.value.param == "messages[0].content[0].type"


# --- anything else -----------------------------------------------------------------------------------------------

JUNK = st.sampled_from([None, True, 0, -1, 1.5, "", "text", "tool_use", [], ["x"], {}, {"type": "text"}, {"type": 7}])


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in `value` with every key or index of it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in list(items) for found in [(value, key), *places(inner)]]


@given(junk=JUNK, at=st.integers(0, 10_000))
def test_junk_in_any_place_is_accepted_or_refused_but_never_a_bug(junk: Any, at: int) -> None:
    body = json.loads(json.dumps(claude_code("1")))  # its parts are shared
    container, key = (found := places(body))[at % len(found)]
    container[key] = junk
    with suppress(InvalidRequest):
        codec = MessagesCodec()
        codec.engine_body(codec.read(body), ModelId("m"), Effort.LOW)
