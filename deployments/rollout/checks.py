"""Whether an answer passes the checks of its case. Pure, and nothing that an answer says is run.

Beside the case's own checks stand those that hold for any answer: something was said, it was not cut off by the limit
(unless the case allows that), and it does not go round in circles (`router/verify`).
"""

import ast
import json
from collections.abc import Mapping
from typing import Final, cast

import regex

from deployments.rollout.cases import CallCheck, Case, Reply
from router.types import TaskType
from router.verify.codes import blocks
from router.verify.schemas import valid
from router.verify.texts import completion, presence, repetition
from router.verify.values import MOST_ANSWER_CHARS, Answer, Json, Status, Task

_SEARCH_S: Final = 1.0  # a pattern that needs longer found nothing
_PYTHON: Final = frozenset({"python", "py", "python3"})
_TASK: Final = Task(TaskType.GENERAL, ())


def passes(case: Case, reply: Reply) -> bool:
    """True when an answer is what the case asks for. Never raises, whatever the answer says."""
    checks = case.checks
    if len(reply.text) > MOST_ANSWER_CHARS or not _is_whole(reply, checks.may_be_cut):
        return False
    if checks.tool_call is None:
        if reply.calls:
            return False
    elif len(reply.calls) != 1 or not _is_call(checks.tool_call, *reply.calls[0]):
        return False
    return (
        (checks.expects is None or matches(checks.expects, reply.text))
        and (checks.avoids is None or not matches(checks.avoids, reply.text))
        and (checks.json_schema is None or _obeys(checks.json_schema, reply.text))
        and (checks.python is None or _defines(checks.python, reply.text))
    )


def decides(schema: Mapping[str, object], text: str) -> bool:
    """True when a schema says either yes or no to a text; False where it uses what the validator does not know."""
    try:
        return valid(_json(text), cast("Mapping[str, Json]", schema)) is not None
    except (ValueError, RecursionError):
        return True


def _is_whole(reply: Reply, may_be_cut: bool) -> bool:
    answer = Answer(reply.text, reply.finish, len(reply.calls))
    said = [presence(answer), repetition(answer)]
    if not may_be_cut:
        said.append(completion(answer, _TASK))
    return all(each.status is not Status.FAIL for each in said)


def _is_call(wanted: CallCheck, name: str, arguments: str) -> bool:
    try:
        given: object = json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    if name != wanted.name or not isinstance(given, dict):
        return False
    said = cast("dict[str, object]", given)
    equal = all(key in said and _is(said[key], value) for key, value in wanted.arguments.items())
    return equal and all(
        isinstance(text := said.get(key), str) and matches(pattern, text) for key, pattern in wanted.matches.items()
    )


def _is(given: object, wanted: object) -> bool:
    """JSON equality, in which 1 is 1.0 and is not true."""
    return valid(cast("Json", given), {"const": cast("Json", wanted)}) is True


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in an answer; False also for one that looks for longer than a second."""
    try:
        return regex.search(pattern, text, timeout=_SEARCH_S) is not None
    except TimeoutError:
        return False


def _obeys(schema: Mapping[str, object], text: str) -> bool:
    try:
        return valid(_json(text), cast("Mapping[str, Json]", schema)) is True
    except (ValueError, RecursionError):
        return False


def _json(text: str) -> Json:
    """The JSON that a text is, or that its one fenced block is."""
    found = blocks(text)
    return cast("Json", json.loads(found[0].text if len(found) == 1 else text))


def _defines(names: tuple[str, ...], text: str) -> bool:
    fenced = blocks(text)
    # Beside a block that says what it is, one that does not is what the code prints.
    named = [each.text for each in fenced if each.language in _PYTHON]
    code = named or [each.text for each in fenced if not each.language]
    try:
        tree = ast.parse("\n".join(code) if code else text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    there = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return bool(tree.body) and there.issuperset(names)
