import hashlib
import json
from typing import Any

import pytest
import rfc8785

from deployments.errors import InvalidRequest
from deployments.gate.tools.schema import schema_digest
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.dialects.values import Asked
from deployments.ingress.evidence import results_of
from deployments.ingress.provenance import Outside, agent_of, schemas_of
from deployments.ingress.settings import IngressSettings
from deployments.ports import Dialect, JsonValue

CODECS = make_codecs()
SETTINGS = IngressSettings()
OUTSIDE = Outside(SETTINGS.outside_tools, SETTINGS.inside_tools)


def asked(dialect: Dialect = Dialect.CHAT, **body: JsonValue) -> Asked:
    return CODECS[dialect].read(body)


def used(*tools: str) -> Asked:
    """A chat in which these tools were called, one after the other, and answered."""
    messages: list[JsonValue] = [{"role": "user", "content": "go"}]
    for number, tool in enumerate(tools):
        call: JsonValue = {"id": f"c{number}", "type": "function", "function": {"name": tool, "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "words"})
    return asked(messages=messages)


@pytest.mark.parametrize(
    ("headers", "agent"),
    [
        ({"user-agent": "codex_cli_rs/0.169.0 (Linux 6.8; x86_64) xterm"}, "codex_cli_rs/0.169"),
        ({"user-agent": "codex_exec/0.169.0", "originator": "codex_exec"}, "codex_exec/0.169"),
        ({"user-agent": "claude-cli/2.1.197 (external, cli)"}, "claude-cli/2.1"),
        ({"user-agent": "opencode/1.18.33 ai-sdk/5"}, "opencode/1.18"),
        ({"user-agent": "OpenAI/Python 2.54.0"}, "OpenAI-Python/2.54"),
        ({"user-agent": "Anthropic/JS 0.9"}, "Anthropic-JS/0.9"),
        ({"user-agent": "curl/8"}, "curl/8"),
        ({"user-agent": "aider"}, "aider"),
        ({"originator": "my_tool"}, "my_tool"),
        ({"user-agent": "x/1.2", "originator": "two words"}, "x/1.2"),
        ({"user-agent": "x/1.2", "originator": "a" * 49}, "x/1.2"),
        ({"user-agent": '"><script>'}, None),
        ({"user-agent": "é/1"}, None),
        ({"user-agent": "a\nb"}, "a"),
        ({"user-agent": "x/" + "9" * 40}, "x"),
        ({"user-agent": ""}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_an_agent_is_a_short_safe_word(headers: dict[str, str], agent: str | None) -> None:
    assert agent_of(headers) == agent


@pytest.mark.parametrize("text", ["x" * 5000, "a/" * 500, "\x00", "a/1.2.3 " * 99, "/", "1/2", "a b c d"])
def test_nothing_of_any_length_comes_of_a_header(text: str) -> None:
    agent = agent_of({"user-agent": text, "originator": text})
    assert agent is None or (len(agent) <= 128 and agent.isascii() and agent.isprintable() and " " not in agent)


@pytest.mark.parametrize(
    "tool",
    ["WebFetch", "webfetch", "web_search", "google_web_search", "mcp__github__get_issue", "mcp__x__run",
     "browser_navigate", "fetch", "read_mail", "gmail_search", "github_list_issues", "jira_get",
     "slack_read_channel", "http_request"],
)  # fmt: skip
def test_the_result_of_a_tool_that_goes_outside_is_untrusted(tool: str) -> None:
    assert OUTSIDE.untrusted(used("shell", tool, "shell"), {})


@pytest.mark.parametrize(
    "tool",
    ["shell", "exec_command", "Bash", "Read", "apply_patch", "grep", "mcp__gatehouse__run", "mcp__ide__getDiagnostics"],
)
def test_the_result_of_a_shell_or_a_file_is_of_the_house(tool: str) -> None:
    assert not OUTSIDE.untrusted(used(tool, tool), {})


def test_a_call_to_the_outside_without_its_result_brings_nothing() -> None:
    call: JsonValue = {"id": "c", "type": "function", "function": {"name": "WebFetch", "arguments": "{}"}}
    messages: list[JsonValue] = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    assert not OUTSIDE.untrusted(asked(messages=messages), {})


def test_a_result_of_nobody_knows_what_is_untrusted() -> None:
    messages: list[JsonValue] = [
        {"role": "user", "content": "x"},
        {"role": "tool", "tool_call_id": "c", "content": "y"},
    ]
    assert OUTSIDE.untrusted(asked(messages=messages), {})


def test_the_settings_say_which_tools_go_outside() -> None:
    mine = Outside(("wiki_*",), ("wiki_local",))
    assert [mine.untrusted(used(tool), {}) for tool in ("Wiki_Read", "wiki_local", "WebFetch")] == [True, False, False]
    assert not Outside((), ()).tool("anything")


@pytest.mark.parametrize(("value", "untrusted"), [("true", True), (" true ", True), ("false", False), ("", False)])
def test_a_caller_can_say_so(value: str, untrusted: bool) -> None:
    assert OUTSIDE.untrusted(used("shell"), {"x-gatehouse-untrusted": value}) is untrusted


@pytest.mark.parametrize("value", ["false", ""])
def test_a_caller_can_never_unsay_it(value: str) -> None:
    assert OUTSIDE.untrusted(used("WebFetch"), {"x-gatehouse-untrusted": value})


@pytest.mark.parametrize("value", ["yes", "TRUE", "0", "truefalse"])
def test_what_is_neither_yes_nor_no_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        OUTSIDE.untrusted(used("shell"), {"x-gatehouse-untrusted": value})
    assert caught.value.param == "x-gatehouse-untrusted"


@pytest.mark.parametrize("inside", [True, False])
def test_a_search_result_of_the_client_is_from_outside(inside: bool) -> None:
    passage: JsonValue = {
        "type": "search_result",
        "title": "t",
        "source": "s",
        "content": [{"type": "text", "text": "x"}],
    }
    result: JsonValue = {"type": "tool_result", "tool_use_id": "c", "content": [passage]}
    call: JsonValue = {"type": "tool_use", "id": "c", "name": "Read", "input": {}}
    messages: Any = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [call]},
        {
            "role": "user",
            "content": [result if inside else {**result, "content": "plain"}] + ([] if inside else [passage]),
        },
    ]
    assert OUTSIDE.untrusted(asked(Dialect.MESSAGES, messages=messages, max_tokens=9), {})


def test_items_of_a_namespace_are_known_by_their_whole_name() -> None:
    call: dict[str, JsonValue] = {
        "type": "function_call",
        "call_id": "c",
        "name": "get",
        "namespace": "mcp__k8s",
        "arguments": "{}",
    }
    output: JsonValue = {"type": "function_call_output", "call_id": "c", "output": "x"}
    assert OUTSIDE.untrusted(asked(Dialect.RESPONSES, input=[call, output]), {})
    assert not OUTSIDE.untrusted(asked(Dialect.RESPONSES, input=[{**call, "namespace": "local"}, output]), {})


SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "properties": {"b": {"type": "string"}, "a": {"type": "number", "default": 1.0}},
}
DIGEST = hashlib.sha256(rfc8785.dumps(SCHEMA)).hexdigest()


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (Dialect.CHAT, {"messages": [{"role": "user", "content": "x"}],
                        "tools": [{"type": "function", "function": {"name": "shell", "parameters": SCHEMA}}]}),
        (Dialect.RESPONSES, {"input": "x", "tools": [{"type": "function", "name": "shell", "parameters": SCHEMA}]}),
        (Dialect.MESSAGES, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9,
                            "tools": [{"name": "shell", "input_schema": SCHEMA}]}),
    ],
)  # fmt: skip
def test_a_schema_has_the_same_digest_in_every_dialect(dialect: Dialect, body: dict[str, JsonValue]) -> None:
    request = asked(dialect, **body)
    assert schemas_of(request, ["shell", "other"]) == {"shell": DIGEST}
    assert schemas_of(request, ["other"]) == {}


@pytest.mark.parametrize("schema", [{"x": 2**60}, {"x": "\ud800"}, None])
def test_a_schema_without_a_canonical_form_is_left_out(schema: JsonValue) -> None:
    function: Any = {"name": "shell"} | ({} if schema is None else {"parameters": schema})
    request = asked(messages=[{"role": "user", "content": "x"}], tools=[{"type": "function", "function": function}])
    assert schemas_of(request, ["shell"]) == {}


def test_the_spelling_of_a_schema_does_not_matter_and_its_meaning_does() -> None:
    other = json.loads(json.dumps(SCHEMA, sort_keys=True).replace("1.0", "1"))
    function: JsonValue = {"name": "shell", "parameters": other}
    request = asked(messages=[{"role": "user", "content": "x"}], tools=[{"type": "function", "function": function}])
    assert schemas_of(request, ["shell"]) == {"shell": DIGEST}
    other["properties"]["a"]["default"] = 2
    assert schemas_of(request, ["shell"]) != {"shell": DIGEST}


@pytest.mark.parametrize(("flag", "failed"), [({"is_error": True}, True), ({"is_error": False}, False), ({}, None)])
def test_a_result_of_messages_keeps_its_flag(flag: dict[str, JsonValue], failed: bool | None) -> None:
    messages: list[JsonValue] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "shell", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "y", **flag}]},
    ]
    request = asked(Dialect.MESSAGES, messages=messages, max_tokens=9)
    assert [each.failed for each in results_of(request.body, request.failed)] == [failed]


@pytest.mark.parametrize(("status", "failed"), [("incomplete", True), ("completed", None), (7, None), (None, None)])
def test_an_output_of_responses_that_is_not_all_there_has_failed(status: JsonValue, failed: bool | None) -> None:
    items: list[JsonValue] = [
        {"type": "function_call", "call_id": "c", "name": "shell", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "y", "status": status},
    ]
    request = asked(Dialect.RESPONSES, input=items)
    assert [each.failed for each in results_of(request.body, request.failed)] == [failed]


def test_the_ingress_and_the_policy_digest_a_schema_alike() -> None:
    schema: dict[str, JsonValue] = {"type": "object", "properties": {"b": {"type": "number", "minimum": 1.0}, "a": {}}}
    tool: JsonValue = {"type": "function", "function": {"name": "t", "parameters": schema}}
    request = asked(messages=[{"role": "user", "content": "go"}], tools=[tool])
    assert schemas_of(request, ["t"]) == {"t": schema_digest(schema)}
