import pytest

from router.features import read
from router.signals.agent import Severity, complaint, is_tool_error, read_agent_state, says_it_failed
from router.signals.evidence import WEIGHTS, EvidenceKind, is_failure
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


# --- evidence and its weights

WRONG = "No, that is wrong."
FAILED = "It is still failing."


def weight(*turns: Turn) -> float:
    passages = [read(turn.text) for turn in reversed(turns) if turn.role is Role.USER]
    return read_agent_state(turns, passages).newest_weight


def test_the_weights():
    hard = {kind for kind, value in WEIGHTS.items() if value == 1.0}
    assert set(EvidenceKind) - hard == {EvidenceKind.USER_SAYS_WRONG, EvidenceKind.RE_ASKED, EvidenceKind.HEDGED}
    soft = (EvidenceKind.USER_SAYS_WRONG, EvidenceKind.RE_ASKED, EvidenceKind.HEDGED)
    assert [WEIGHTS[kind] for kind in soft] == [0.8, 0.4, 0.3]
    assert is_failure(0.3 + 0.4 + 0.3)
    assert not is_failure(0.99)


def test_an_opinion_alone_is_no_failure_and_a_report_is():
    assert weight(user("why?"), assistant("because"), user(WRONG)) == pytest.approx(0.8)
    assert weight(user("why?"), assistant("because"), user(FAILED)) == pytest.approx(1.0)
    assert complaint("Thanks, that worked.") is None


def test_soft_signs_that_agree_are_a_failure():
    hedged = assistant("I'm not sure, it may be the cache.")
    assert weight(user("why?"), hedged, user(WRONG)) == pytest.approx(1.1)
    again = "That is wrong. Which index does the slow checkout query use?"
    asked = user("Which index does the slow checkout query use?")
    assert weight(asked, assistant("The first."), user(again)) == pytest.approx(1.2)
    assert weight(asked, hedged, user("Which index does the checkout query use?")) == pytest.approx(0.7)


def test_being_careful_is_no_failure():
    assert weight(user("why?"), assistant("I'm not sure."), user("Thanks, go on")) == 0


@pytest.mark.parametrize(
    ("asked", "again", "same"),
    [
        ("Which index does the slow checkout query use?", "which index does the checkout query use", True),
        ("为什么结账服务的数据库查询这么慢", "结账服务的数据库查询为什么这么慢", True),
        ("Which index does the slow checkout query use?", "Now write a test for the cart module please", False),
        ("why?", "why?", False),  # too short to tell
    ],
)
def test_asking_again_is_noticed_in_other_words(asked: str, again: str, same: bool):
    assert (weight(user(asked), assistant("Because."), user(again)) > 0) is same


def test_earlier_rounds_count_as_long_as_none_was_fine():
    turns = [user("why?"), assistant("a"), user(FAILED), assistant("b"), user(WRONG)]
    state = read_agent_state(turns)
    assert (state.newest_weight, state.earlier_weight) == (0.8, 1.0)
    assert read_agent_state([*turns[:3], assistant("b"), user("Thanks, that did it")]).earlier_weight == 0
    recovered = [*turns[:3], assistant("b"), user("Thanks, and the next one?"), assistant("c"), user(WRONG)]
    assert read_agent_state(recovered).earlier_weight == 0


def test_an_error_that_the_user_did_not_mind_is_over():
    turns = [user("why?"), assistant("The root cause is the missing config map.", GET), tool("Error: no")]
    assert read_agent_state(turns).failed
    assert not read_agent_state([*turns, assistant("It is gone."), user("Thanks. And the weather?")]).failed


EDIT = ("edit_file", '{"path": "a.py"}')
TEST = ("shell", '{"command": "pytest -q"}')


def test_tests_that_fail_after_an_edit_are_evidence():
    tried = [user("fix it"), assistant("", EDIT), tool("done"), assistant("", TEST)]
    assert read_agent_state([*tried, tool("FAILED tests/test_a.py\n1 failed, 3 passed")]).newest == (
        (EvidenceKind.TEST_FAILED, 1.0),
    )
    assert read_agent_state([*tried, tool("4 passed")]).newest == ()
    looked = [user("fix it"), assistant("", TEST), tool("1 failed, 3 passed")]
    assert read_agent_state(looked).newest == ()  # nothing was attempted yet


def test_what_an_agent_does():
    look, edit = ("read_file", "{}"), ("shell", "sed -i s/a/b/ x")
    assert read_agent_state([user("x"), assistant("", look), tool("y")]).exploring
    both = read_agent_state([user("x"), assistant("", look), tool("y"), assistant("", edit), tool("")])
    assert (both.exploring, both.producing, both.repeat_share) == (False, True, 0.0)
    spun = read_agent_state([user("x"), *[assistant("", look), tool("y")] * 2])
    assert (spun.repeat_share, spun.stalled) == (0.5, False)


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("Error: no such file", Severity.ERROR),
        ("fatal: no space left on device", Severity.CRITICAL),
        ("panic: runtime error", Severity.CRITICAL),
        ("ok", Severity.NONE),
    ],
)
def test_how_bad_a_result_is(text: str, severity: Severity):
    assert read_agent_state([user("x"), assistant("", GET), tool(text)]).severity is severity


@pytest.mark.parametrize(
    "said",
    [
        "That's wrong", "Das stimmt nicht", "C'est faux", "Eso es incorrecto", "Isso está errado", "Это неверно",
        "不正确", "間違っています", "틀렸습니다", "यह सही नहीं है",
    ],
)  # fmt: skip
def test_an_opinion_in_ten_languages(said: str):
    assert complaint(said) is EvidenceKind.USER_SAYS_WRONG


@pytest.mark.parametrize(
    "said",
    [
        "It still fails", "Das hat nicht geholfen", "Ça n'a pas marché", "No funcionó", "Não resolveu",
        "Не сработало", "没有解决", "まだエラーが出ます", "해결되지 않았어요", "मदद नहीं मिली",
    ],
)  # fmt: skip
def test_a_report_in_ten_languages(said: str):
    assert complaint(said) is EvidenceKind.USER_SAW_IT_FAIL
