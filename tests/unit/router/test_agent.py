import pytest

from router.signals.agent import is_tool_error, read_agent_state, says_it_failed
from router.types import Role, Turn
from tests.unit.router.asks import assistant, tool, user

GET = ("shell", '{"command": "kubectl get pods"}')


def test_a_tool_loop_lasts_until_somebody_speaks():
    loop = [user("look"), assistant("", GET), tool("ok")]
    assert read_agent_state(loop).tool_loop
    assert not read_agent_state([*loop, assistant("Done.")]).tool_loop
    assert not read_agent_state([*loop, assistant("Done."), user("thanks")]).tool_loop
    assert not read_agent_state([]).tool_loop


def test_the_same_call_three_times_is_a_stall_and_another_call_ends_it():
    loop = [user("look"), *[assistant("", GET), tool("nothing")] * 3]
    assert read_agent_state(loop).stalled
    assert not read_agent_state([*loop, assistant("", ("shell", "{}")), tool("ok")]).stalled


def test_calls_before_the_newest_user_turn_do_not_stall():
    loop = [user("look"), *[assistant("", GET), tool("nothing")] * 2, assistant("x"), user("go"), assistant("", GET)]
    assert not read_agent_state(loop).stalled


def test_three_errors_in_a_row_are_a_stall():
    calls = [part for n in range(3) for part in (assistant("", ("shell", str(n))), tool("Error: no"))]
    state = read_agent_state([user("look"), *calls])
    assert (state.stalled, state.tool_errors) == (True, 3)


@pytest.mark.parametrize(
    "said",
    [
        "That did not help.",
        "It's still failing", "It\u2019s still failing", "No, that's wrong",
        "不对", "Das ist falsch",
        "не помогло", "sigue fallando", "ça ne marche pas", "違います", "틀렸어요", "não funcionou", "काम नहीं कर रहा",
    ],
)  # fmt: skip
def test_a_user_says_it_failed(said: str):
    assert says_it_failed(said)
    assert read_agent_state([user("why?"), assistant("because"), user(said)]).dissatisfied


@pytest.mark.parametrize("said", ["Thanks, that worked.", "What is wrong with this code?", "Now the next service."])
def test_a_user_goes_on(said: str):
    assert not says_it_failed(said)


def test_a_first_turn_cannot_say_that_an_answer_failed():
    assert not read_agent_state([user("It is still failing")]).dissatisfied


def test_the_newest_user_turn_decides():
    turns = [user("why?"), assistant("a"), user("still failing"), assistant("b"), user("Thanks, that worked.")]
    assert not read_agent_state(turns).failed


@pytest.mark.parametrize(
    "text",
    [
        "Error from server (NotFound): pods x not found", "bash: kubctl: command not found", '{"is_error": true}',
        "Traceback (most recent call last):\n", "output\nexit code: 1", "fatal: not a git repository", "[error] no",
    ],
)  # fmt: skip
def test_tool_errors(text: str):
    assert is_tool_error(text)


@pytest.mark.parametrize("text", ["2024-05-01 ERROR upstream timeout", "0 errors", "exit code: 0", "", "NAME READY"])
def test_results_that_only_speak_of_errors(text: str):
    assert not is_tool_error(text)


def test_a_tool_error_after_a_diagnosis_is_a_failure():
    diagnosis = assistant("The root cause is the missing config map, so I apply it.", GET)
    turns = [user("why?"), diagnosis, tool("Error from server: no")]
    assert read_agent_state(turns).tool_error_after_diagnosis
    assert not read_agent_state([*turns, assistant("", GET), tool("applied")]).tool_error_after_diagnosis
    assert not read_agent_state([user("why?"), assistant("Let me look.", GET), tool("Error: no")]).failed


def test_system_turns_are_not_spoken():
    assert not read_agent_state([Turn(Role.SYSTEM, "x")]).tool_loop
