import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.difficulty.reading import MAX_HEAD_CHARS, MAX_TAIL_CHARS, MAX_TURNS, read_chat, read_completion
from deployments.ports import Effort, Role, Turn
from router.policy import default_policy
from router.route import route
from router.types import StateView


def message(role: str, content: object, **fields: object) -> dict[str, object]:
    return {"role": role, "content": content, **fields}


def test_a_conversation_with_tools():
    call = {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": '{"command":"ls"}'}}
    body = {
        "messages": [
            message("developer", "Be brief."),
            message("user", [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "x"}}]),
            message("assistant", None, tool_calls=[call]),
            message("tool", "a b", tool_call_id="c1"),
        ],
        "tools": [{"type": "function", "function": {"name": "shell"}}, {"type": "custom", "name": "edit"}],
        "reasoning_effort": "high",
    }
    request = read_chat(body)
    assert request.turns == (
        Turn(Role.DEVELOPER, "Be brief."),
        Turn(Role.USER, "look"),
        Turn(Role.ASSISTANT, "", (("shell", '{"command":"ls"}'),)),
        Turn(Role.TOOL, "a b"),
    )
    assert request.offered_tools == ("shell", "edit")
    assert request.requested_effort is Effort.HIGH
    assert request.untrusted_content


def test_the_older_function_calls():
    body = {
        "messages": [
            message("assistant", None, function_call={"name": "f", "arguments": "{}"}),
            message("function", "done", name="f"),
        ],
        "functions": [{"name": "f"}],
    }
    request = read_chat(body)
    assert request.turns == (Turn(Role.ASSISTANT, "", (("f", "{}"),)), Turn(Role.TOOL, "done"))
    assert request.offered_tools == ("f",)


def test_an_unknown_role_counts_as_the_users():
    assert read_chat({"messages": [message("wizard", "hi")]}).turns == (Turn(Role.USER, "hi"),)


@pytest.mark.parametrize(
    ("body", "effort"),
    [
        ({"reasoning_effort": "minimal"}, Effort.LOW),
        ({"reasoning_effort": "xhigh"}, Effort.HIGH),
        ({"reasoning": {"effort": "low"}}, Effort.LOW),
        ({"reasoning_effort": "enormous"}, None),
        ({"reasoning_effort": 3}, None),
        ({}, None),
    ],
)
def test_the_wished_effort(body: dict[str, object], effort: Effort | None):
    assert read_chat(body).requested_effort is effort
    assert read_completion(body).requested_effort is effort


def test_long_texts_keep_head_and_tail():
    text = "a" * MAX_HEAD_CHARS + "b" * 9_999 + "c" * MAX_TAIL_CHARS
    read = read_chat({"messages": [message("user", text)]}).turns[0].text
    assert len(read) == MAX_HEAD_CHARS + MAX_TAIL_CHARS + 1
    assert (read[0], read[-1]) == ("a", "c")


def test_old_messages_are_not_read_but_their_tool_results_are_noticed():
    messages = [message("tool", "x"), *[message("user", str(n)) for n in range(MAX_TURNS)]]
    request = read_chat({"messages": messages})
    assert len(request.turns) == MAX_TURNS
    assert request.turns[-1].text == str(MAX_TURNS - 1)
    assert request.untrusted_content


@pytest.mark.parametrize(
    ("prompt", "text"), [("hi", "hi"), (["a", "b"], "a\n\nb"), ([1, 2, 3], None), ([[1], [2]], None), (None, None)]
)
def test_prompts(prompt: object, text: str | None):
    turns = read_completion({"prompt": prompt}).turns
    assert turns == (() if text is None else (Turn(Role.USER, text),))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda part: (
        st.lists(part, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "text", "tool_calls", "function", "name", "arguments", "function_call", "effort"]
            ),
            part,
            max_size=4,
        )
    ),
    max_leaves=20,
)
KEYS = st.sampled_from(["messages", "prompt", "tools", "functions", "reasoning_effort", "reasoning"])


@given(st.dictionaries(KEYS, JSON))
def test_odd_shapes_are_read_and_routed(body: dict[str, object]):
    for request in (read_chat(body), read_completion(body)):
        assert route(request, StateView(), default_policy()).difficulty >= 0.0
