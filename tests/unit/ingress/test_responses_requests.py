"""What a request of the Responses API becomes for the engine, and what is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.chat import ChatCodec
from deployments.ingress.dialects.responses import ResponsesCodec, snapshot
from deployments.ingress.dialects.values import Asked, Framing
from deployments.ports import Dialect, Effort, ModelId, ResponseStatus

CODEC = ResponsesCodec()
FRAMING = Framing("0123456789abcdef" * 2, ModelId("demo-20b"), 1_767_225_600, Effort.HIGH)

EXEC = {"type": "function", "name": "exec_command", "description": "Run.", "strict": False,
        "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}}}  # fmt: skip
SPAWN = {"type": "function", "name": "spawn_agent", "description": "Start one.", "parameters": {"type": "object"}}
AGENTS = {"type": "namespace", "name": "multi_agent_v1", "description": "Other agents.", "tools": [SPAWN]}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edit files.",
         "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin"'}}  # fmt: skip
SEARCH = {"type": "web_search", "external_web_access": False}
CALL = {"type": "function_call", "call_id": "c1", "name": "exec_command", "arguments": '{"cmd":"ls"}'}

CODEX: dict[str, Any] = {
    "model": "gpt-oss-120b",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You are Codex."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<context/>"},
                                                        {"type": "input_text", "text": "say hello"}]},
    ],
    "tools": [EXEC, AGENTS, SEARCH],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199-key",
    "client_metadata": {"x-codex-installation-id": "1"},
}  # fmt: skip


def asked(given: Any = "hi", **fields: Any) -> Asked:
    return CODEC.read({"input": given, **fields})


def chat(given: Any = "hi", **fields: Any) -> dict[str, Any]:
    """The request for the engine."""
    return dict(asked(given, **fields).body)


def messages(*items: object, **fields: object) -> list[Any]:
    return chat([*items], **fields)["messages"]


def functions(*tools: object) -> list[dict[str, Any]]:
    return [tool["function"] for tool in chat(tools=[*tools])["tools"]]


def message(role: str, *texts: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def call(call_id: str, name: str = "exec_command", arguments: str = "{}", **more: object) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def chat_call(call_id: str, name: str = "exec_command", arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def output(call_id: str, text: object = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def test_codex_as_it_is() -> None:
    read = CODEC.read(CODEX)
    assert (read.dialect, read.engine_path) == (Dialect.RESPONSES, "/v1/chat/completions")
    assert (read.model, read.requested_model, read.stream, read.choices) == ("gpt-oss-120b", "gpt-oss-120b", True, 1)
    assert read.effort is None
    assert read.dropped_tools == ("web_search",)
    assert read.offered_tools == {"exec_command", "multi_agent_v1__spawn_agent"}
    assert read.body["messages"] == [
        {"role": "developer", "content": "You are Codex."},
        {"role": "user", "content": [{"type": "text", "text": "<context/>"}, {"type": "text", "text": "say hello"}]},
    ]
    assert set(read.body) == {"messages", "tools", "tool_choice", "parallel_tool_calls"}
    assert "say hello" in read.prompt_texts


def test_the_engine_gets_model_effort_and_the_usage_switch() -> None:
    body = json.loads(CODEC.engine_body(CODEC.read(CODEX), ModelId("demo-20b"), Effort.HIGH))
    assert (body["model"], body["reasoning_effort"], body["stream"]) == ("demo-20b", "high", True)
    assert body["stream_options"] == {"include_usage": True}


def test_the_settings_of_the_answer_reach_the_engine() -> None:
    schema = {"type": "object", "properties": {}}
    wanted = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    body = asked(temperature=0.5, top_p=0.9, max_output_tokens=77, text={"format": wanted, "verbosity": "low"}).body
    assert body == {
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 77,
        "response_format": {"type": "json_schema",
                            "json_schema": {"name": "answer", "schema": schema, "strict": True}},
    }  # fmt: skip
    assert asked(text={"format": {"type": "json_object"}}).body["response_format"] == {"type": "json_object"}
    assert "response_format" not in asked(text={"format": {"type": "text"}}).body


def test_the_answer_limit_sizes_the_reservation() -> None:
    assert asked(max_output_tokens=77).max_tokens == 77


def test_instructions_come_first() -> None:
    assert messages(message("user", "hi"), instructions="Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([{"role": "user", "content": "hi"}], [{"role": "user", "content": "hi"}]),
        ([{"role": "user", "content": []}], [{"role": "user", "content": ""}]),
        ([{"role": "system", "content": [{"type": "text", "text": "s"}]}], [{"role": "system", "content": "s"}]),
        ([message("developer", "d")], [{"role": "developer", "content": "d"}]),
        ([message("assistant", "a", "b")], [{"role": "assistant", "content": "ab"}]),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "id": "msg_1", "status": "x"}],
            [{"role": "assistant", "content": "no"}],
        ),
        # the reasoning belongs to what follows it, and one turn of the assistant is one message
        ([thought("r"), message("assistant", "a")], [{"role": "assistant", "content": "a", "reasoning_content": "r"}]),
        (
            [thought("r"), call("c1")],
            [{"role": "assistant", "reasoning_content": "r", "tool_calls": [chat_call("c1")]}],
        ),
        (
            [thought("r"), message("assistant", "a"), message("assistant", "[gatehouse:held ...]"), call("c1")],
            [{"role": "assistant", "content": "a\n\n[gatehouse:held ...]", "reasoning_content": "r",
              "tool_calls": [chat_call("c1")]}],
        ),
        (
            [call("c1"), call("c2"), output("c1"), output("c2", "two"), thought("r"), call("c3")],
            [
                {"role": "assistant", "tool_calls": [chat_call("c1"), chat_call("c2")]},
                {"role": "tool", "tool_call_id": "c1", "content": "ok"},
                {"role": "tool", "tool_call_id": "c2", "content": "two"},
                {"role": "assistant", "reasoning_content": "r", "tool_calls": [chat_call("c3")]},
            ],
        ),
        (  # a call that nobody answered ends its message all the same
            [call("c1"), thought("r"), message("assistant", "a"), message("user", "u")],
            [
                {"role": "assistant", "tool_calls": [chat_call("c1")]},
                {"role": "assistant", "content": "a", "reasoning_content": "r"},
                {"role": "user", "content": "u"},
            ],
        ),
        # the summary stands in for reasoning that a server kept to itself
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "gAAA"},
             message("assistant", "a")],
            [{"role": "assistant", "content": "a", "reasoning_content": "s"}],
        ),
        (
            [{"type": "reasoning", "summary": [], "content": None, "encrypted_content": "gAAA"},
             message("assistant", "a")],
            [{"role": "assistant", "content": "a"}],
        ),
        (
            [call("c1"), output("c1", [{"type": "input_text", "text": "one"},
                                       {"type": "input_image", "image_url": "data:image/png;base64,AA"},
                                       {"type": "output_text", "text": "two"}])],
            [{"role": "assistant", "tool_calls": [chat_call("c1")]},
             {"role": "tool", "tool_call_id": "c1", "content": "one\n[image omitted]\ntwo"}],
        ),
        (
            [{"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": 'a "b"\n\u001f\u00e9'},
             {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}],
            [{"role": "assistant",
              "tool_calls": [chat_call("c1", "apply_patch", '{"input":"a \\"b\\"\\n\\u001f\u00e9"}')]},
             {"role": "tool", "tool_call_id": "c1", "content": "done"}],
        ),
        (  # the tool is not on offer any more: its name is the one that it would have
            [call("c1", "spawn_agent", namespace="multi_agent_v1")],
            [{"role": "assistant", "tool_calls": [chat_call("c1", "multi_agent_v1__spawn_agent")]}],
        ),
    ],
)  # fmt: skip
def test_items_become_messages(items: list[object], expected: list[object]) -> None:
    assert messages(*items) == expected
    ChatCodec().read(chat([*items]))


def test_texts_and_arguments_are_counted_against_the_window() -> None:
    read = asked([message("user", "uuu"), call("c1", arguments='{"a":1}'), output("c1", "ooo")], tools=[EXEC])
    assert {"uuu", '{"a":1}', "ooo", "Run."} <= set(read.prompt_texts)
    assert json.dumps(EXEC["parameters"]) in read.prompt_texts


def test_functions_lose_their_flat_shape() -> None:
    assert asked(tools=[EXEC]).body["tools"] == [
        {"type": "function", "function": {name: value for name, value in EXEC.items() if name != "type"}}
    ]


def test_functions_of_a_namespace_are_flattened() -> None:
    assert functions(AGENTS) == [
        {"name": "multi_agent_v1__spawn_agent", "description": "Start one.", "parameters": {"type": "object"}}
    ]


def test_a_flattened_name_keeps_to_64_characters_and_stays_the_same() -> None:
    long = {"type": "namespace", "name": "n" * 40, "description": "", "tools": [
        {"type": "function", "name": "t" * 30 + end} for end in "ab"
    ]}  # fmt: skip
    names = [function["name"] for function in functions(long)]
    assert [len(name) for name in names] == [64, 64]
    assert len(set(names)) == 2
    assert names == [function["name"] for function in functions(EXEC, long)[1:]]


@pytest.mark.parametrize("turned", [False, True])
def test_clashing_names_are_told_apart_whatever_their_order(turned: bool) -> None:
    tools: list[dict[str, Any]] = [
        {"type": "namespace", "name": "a", "description": "", "tools": [{"type": "function", "name": "b__c"}]},
        {"type": "namespace", "name": "a__b", "description": "", "tools": [{"type": "function", "name": "c"}]},
        {"type": "function", "name": "a__b__c"},
    ]
    read = asked(
        [call("c1", "b__c", namespace="a"), call("c2", "c", namespace="a__b"), call("c3", "a__b__c")],
        tools=tools[::-1] if turned else tools,
    )
    assert len(read.offered_tools) == 3
    sent: Any = read.body
    replayed = [each["function"]["name"] for each in sent["messages"][0]["tool_calls"]]
    assert replayed[2] == "a__b__c"
    assert set(replayed) == read.offered_tools
    assert replayed == ["a__b__c_01b8a75b", "a__b__c_a92700ce", "a__b__c"]


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    (function,) = functions(PATCH)
    assert function["name"] == "apply_patch"
    assert function["description"].startswith("Edit files.\n\n")
    assert function["description"].endswith('Lark grammar:\nstart: "*** Begin"')
    assert function["parameters"]["required"] == ["input"]
    assert function["parameters"]["properties"]["input"]["type"] == "string"


def test_a_custom_tool_without_a_grammar_keeps_its_description() -> None:
    (function,) = functions({"type": "custom", "name": "note", "description": "Notes.", "format": {"type": "text"}})
    assert function["description"] == "Notes."


@pytest.mark.parametrize(
    "kind",
    ["web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "code_interpreter",
     "container", "image_generation"],
)  # fmt: skip
def test_hosted_tools_are_dropped_and_named(kind: str) -> None:
    read = asked(tools=[{"type": kind}, EXEC, {"type": kind}], tool_choice="auto")
    assert read.dropped_tools == (kind,)
    assert read.offered_tools == {"exec_command"}
    assert read.body["tool_choice"] == "auto"


def test_without_a_tool_left_nothing_is_said_of_tools() -> None:
    read = asked(tools=[SEARCH], tool_choice="auto", parallel_tool_calls=True)
    assert set(read.body) == {"messages"}
    assert read.dropped_tools == ("web_search",)


@pytest.mark.parametrize(
    "kind",
    ["local_shell", "shell", "apply_patch", "file_search", "mcp", "tool_search", "computer_use_preview", "computer",
     "web_search_\r\nx-evil: 1", "web_searching"],
)  # fmt: skip
def test_other_hosted_tools_are_refused_by_name(kind: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        asked(tools=[EXEC, {"type": kind}])
    assert (error.value.param, error.value.code) == ("tools[1].type", "unsupported_tool")


@pytest.mark.parametrize(
    ("choice", "expected", "offered"),
    [
        (None, None, 3),
        ("auto", "auto", 3),
        ("required", "required", 3),
        ("none", "none", 0),
        ({"type": "function", "name": "exec_command"}, "exec_command", 3),
        ({"type": "custom", "name": "apply_patch"}, "apply_patch", 3),
        ({"type": "function", "name": "spawn_agent", "namespace": "multi_agent_v1"}, "multi_agent_v1__spawn_agent", 3),
    ],
)
def test_tool_choice(choice: object, expected: str | None, offered: int) -> None:
    read = asked(tools=[EXEC, AGENTS, PATCH], tool_choice=choice)
    named = {"type": "function", "function": {"name": expected}}
    assert read.body.get("tool_choice") == (named if isinstance(choice, dict) else expected)
    assert len(read.offered_tools) == offered


def test_allowed_tools_restrict_what_is_offered() -> None:
    allowed = [{"type": "custom", "name": "apply_patch"}, {"type": "namespace", "name": "multi_agent_v1"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    read = asked(tools=[EXEC, AGENTS, PATCH], tool_choice=choice)
    assert read.offered_tools == {"apply_patch", "multi_agent_v1__spawn_agent"}
    sent: Any = read.body
    assert [tool["function"]["name"] for tool in sent["tools"]] == [
        "multi_agent_v1__spawn_agent",
        "apply_patch",
    ]
    assert read.body["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("effort", "expected"),
    [("none", Effort.LOW), ("minimal", Effort.LOW), ("low", Effort.LOW), ("medium", Effort.MEDIUM),
     ("high", Effort.HIGH), ("xhigh", Effort.HIGH), ("max", Effort.HIGH), (None, None)],
)  # fmt: skip
def test_effort(effort: str | None, expected: Effort | None) -> None:
    assert asked(reasoning={"effort": effort}).effort is expected


def test_what_changes_nothing_is_accepted() -> None:
    read = asked(
        store=True, background=False, metadata={"a": "b"}, user="u", safety_identifier="s", service_tier="flex",
        truncation="auto", max_tool_calls=3, top_logprobs=0, previous_response_id="resp_1", conversation=None,
        prompt=None, include=["web_search_call.results"], prompt_cache_retention="24h", instructions=None,
        stream=True, stream_options={"include_obfuscation": False},
    )  # fmt: skip
    assert set(read.body) == {"messages"}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["hi"]}, "input[0]", "invalid_value"),
        ({"input": [{"content": "x"}]}, "input[0].role", "missing_required_parameter"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text",
         "missing_required_parameter"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
         "input[0].content[0].type", "invalid_value"),
        ({"input": [CALL, output("c2")]}, "input[1].call_id", "invalid_value"),
        ({"input": [output("c1"), CALL]}, "input[0].call_id", "invalid_value"),
        ({"input": [CALL, output("c1", [{"type": "audio"}])]}, "input[1].output[0].type", "invalid_value"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name", "missing_required_parameter"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "unsupported_parameter"),
        ({"input": [{"id": "msg_1"}]}, "input[0].type", "unsupported_parameter"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "unsupported_parameter"),
        ({"input": [CALL, {"type": "computer_call"}]}, "input[1].type", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]}, "include[1]",
         "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
        ({"kv_transfer_params": {}}, "kv_transfer_params", "unsupported_parameter"),
        ({"messages": []}, "messages", "unsupported_parameter"),
        ({"max_output_tokens": "9"}, "max_output_tokens", "invalid_value"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema",
         "missing_required_parameter"),
        ({"tools": [{"name": "x"}]}, "tools[0].type", "missing_required_parameter"),
        ({"tools": [EXEC, EXEC]}, "tools[1].name", "invalid_value"),
        ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "lark"}}]}, "tools[0].format.definition",
         "missing_required_parameter"),
        ({"tools": [{**AGENTS, "tools": [{"type": "mcp"}]}]}, "tools[0].tools[0].type", "unsupported_tool"),
        ({"tools": [{**AGENTS, "tools": [SEARCH]}]}, "tools[0].tools[0].type", "unsupported_tool"),
        ({"tools": [{**AGENTS, "tools": [{"type": "function", "name": "a b"}]}]}, "tools[0].tools[0].name",
         "invalid_value"),
        ({"tools": [SEARCH], "tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [EXEC, SEARCH], "tool_choice": {"type": "web_search"}}, "tool_choice.type", "unsupported_tool"),
        ({"tools": [EXEC], "tool_choice": {"type": "function", "name": "y"}}, "tool_choice.name", "invalid_value"),
        ({"tools": [EXEC], "tool_choice": {"type": "custom", "name": "exec_command"}}, "tool_choice.name",
         "invalid_value"),
        ({"tools": [EXEC], "tool_choice": {"type": "function"}}, "tool_choice.name", "missing_required_parameter"),
        ({"tools": [EXEC, SEARCH], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "web_search"}]}},
         "tool_choice.tools[0].type", "unsupported_tool"),
        ({"tools": [EXEC], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "y"}]}},
         "tool_choice.tools[0].name", "invalid_value"),
        ({"tools": [EXEC], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.tools", "invalid_value"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        CODEC.read({"input": "hi", **fields})
    assert (error.value.param, error.value.code) == (param, code)


def test_a_refusal_never_quotes_the_value() -> None:
    with pytest.raises(InvalidRequest) as error:
        asked([{"role": "user", "content": {"s3cret": "s3cret"}}])
    assert "s3cret" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "role", "content", "text", "name", "tools", "call_id", "output", "format", "mode"]),
        inner | st.sampled_from(["message", "function", "custom", "namespace", "function_call_output", "user",
                                 "reasoning", "allowed_tools", "web_search", "input_text", "grammar"]),
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None)
@given(
    given_=st.text(max_size=4) | st.lists(JSON, max_size=3),
    fields=st.dictionaries(
        st.sampled_from(["tools", "tool_choice", "text", "reasoning", "include", "metadata", "instructions"]), JSON
    ),
)
def test_any_json_becomes_a_chat_request_or_is_refused(given_: Any, fields: dict[str, Any]) -> None:
    try:
        read = CODEC.read({"input": given_, **fields})
    except InvalidRequest:
        return
    assert ChatCodec().read(read.body).offered_tools == read.offered_tools


def test_the_response_object_repeats_the_request() -> None:
    read = CODEC.read({**CODEX, "metadata": {"k": "v"}, "temperature": 0.5, "previous_response_id": "resp_0"})
    body = snapshot(read, FRAMING, ResponseStatus.QUEUED)
    assert body["id"] == f"resp_{FRAMING.reply_id}"
    assert (body["status"], body["output"], body["model"]) == ("queued", [], "demo-20b")
    assert body["tools"] == [EXEC, AGENTS]
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert (body["store"], body["background"], body["temperature"]) == (False, False, 0.5)
    assert (body["metadata"], body["previous_response_id"]) == ({"k": "v"}, "resp_0")


def test_a_response_is_stored_unless_the_client_objects() -> None:
    assert snapshot(asked(), FRAMING, ResponseStatus.QUEUED)["store"] is True
