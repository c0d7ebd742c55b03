"""The router's answer checks for a request of any dialect: what was asked as they take it, and parsers they lack."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

import tree_sitter_bash
import yaml
from tree_sitter import Language, Parser

from deployments.ingress.dialects.values import Asked
from deployments.ingress.hearing import Said
from deployments.ports import Dialect, JsonValue, RouteRequest
from router.features import read
from router.signals.review import has_diff
from router.signals.task import classify
from router.text import strip_harness
from router.types import Role, TaskType
from router.verify.values import Answer, Json, Parsers, Task, Verdict
from router.verify.verify import verify

_log = logging.getLogger("gatehouse.ingress")
Reader: TypeAlias = Callable[[Mapping[str, JsonValue]], RouteRequest]
_SHORT_TOKENS: Final = 512  # a limit that a client sets to get a piece of an answer
_MOST_YAML_EVENTS: Final = 100_000


def task_of(asked: Asked, request: RouteRequest) -> Task:
    """What an answer is for; `request` is the same request as the router reads it."""
    users = [turn for turn in request.turns if turn.role is Role.USER]
    text = strip_harness(users[-1].text) if users else ""
    kind = classify(read(text), shows_diff=has_diff(text)) if text else TaskType.GENERAL
    form = asked.body.get("response_format")
    wanted = form.get("type") if isinstance(form, dict) else None
    described = form.get("json_schema") if isinstance(form, dict) else None
    schema = described.get("schema") if wanted == "json_schema" and isinstance(described, dict) else None
    return Task(
        type=kind,
        turns=request.turns,
        schema=cast("dict[str, Json]", schema) if isinstance(schema, dict) else None,
        wants_json=wanted in ("json_object", "json_schema"),
        open_ended=asked.dialect is Dialect.COMPLETIONS
        or bool(asked.body.get("stop"))
        or (asked.max_tokens is not None and asked.max_tokens <= _SHORT_TOKENS),
    )


async def verdict_of(said: Said, task: Task) -> Verdict | None:
    """What the checks say, in a thread of their own; None when one of them broke, which is logged and no verdict."""
    answer = Answer(said.text, said.finish, said.calls)
    try:
        return await asyncio.to_thread(verify, answer, task, PARSERS)
    except Exception as error:  # its text may hold the answer
        _log.error("an answer could not be verified: %s", type(error).__name__)
        return None


def parses_as_shell(text: str) -> bool | None:
    """Whether tree-sitter reads `text` as bash without an error."""
    parser = Parser(Language(tree_sitter_bash.language()))
    return not parser.parse(text.encode("utf-8", "surrogatepass")).root_node.has_error


def parses_as_yaml(text: str) -> bool | None:
    """Whether `text` is YAML; tags and aliases are read and never followed. None when it is too much to read."""
    events = cast("Iterator[object]", cast(Any, yaml).parse(text, Loader=yaml.SafeLoader))
    try:
        for number, _ in enumerate(events):
            if number > _MOST_YAML_EVENTS:
                return None
    except yaml.YAMLError:
        return False
    except RecursionError:
        return None
    return True


PARSERS: Final = Parsers(command=parses_as_shell, yaml=parses_as_yaml)
