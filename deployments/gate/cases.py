"""Calls with what is expected of them: a forker's own corpus, one JSON object a line.

    {"command": "kubectl get pods -n shop", "risk": "R0"}
    {"tool": "Write", "arguments": {"file_path": "src/a.py", "content": "x"}, "profile": "coding", "outcome": "release"}

`command` is short for a call of the tool `shell`. `risk`, `outcome` and `profile` (default `ops`) may be left out;
`why` is for people. The corpora in `tests/gate/corpora` have the same form.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from deployments.gate.classify import Classification, Classifier
from deployments.gate.grammar import BundleError, Strict
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.ports import GateProfile, JsonValue

TIMEOUT_S = 10.0
MAX_LINE = 1024 * 1024
_THREADS = 4


class CaseSpec(Strict):
    """One line."""

    command: str | None = None
    tool: str | None = None
    arguments: str | dict[str, Any] | None = None
    risk: Literal["R0", "R1", "R2", "R3", "FORBIDDEN"] | None = None
    outcome: Literal["release", "needs_plan", "hold", "forbid"] | None = None
    profile: Literal["observe", "coding", "ops"] = "ops"
    why: str = ""
    id: str | int | None = None
    program: str = Field(default="", description="For whoever groups cases; not used.")

    @model_validator(mode="after")
    def _one_call(self) -> Self:
        if (self.command is None) == (self.tool is None or self.arguments is None):
            raise ValueError("a case is a command, or a tool with arguments")
        return self


@dataclass(frozen=True, slots=True)
class Case:
    """A call, and what is expected of it; `line` is its number in the file, from 1."""

    line: int
    tool: str
    arguments: str | dict[str, JsonValue]
    profile: GateProfile
    risk: str | None = None
    outcome: str | None = None

    @property
    def shown(self) -> str:
        """The call in one line, for people."""
        if isinstance(self.arguments, dict) and self.tool == "shell" and list(self.arguments) == ["command"]:
            return str(self.arguments["command"])
        said = self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)
        return f"{self.tool} {said}"


def read_cases(path: Path) -> list[Case]:
    """The cases of a file, or `BundleError` with the line that is none."""
    found: list[Case] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    found.append(_case(path.name, number, line))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    return found


def judged(bundle: Bundle, cases: Iterable[Case], reader: ShellReader | None = None) -> Iterator[Classification]:
    """What the bundle makes of each, in their order."""
    classifier = Classifier(bundle, reader or ShellReader(TIMEOUT_S))
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(partial(_judge, classifier), cases)


def case_faults(bundle: Bundle, cases: Iterable[Case]) -> list[str]:
    """Every case that does not come out as it says."""
    cases = list(cases)
    faults: list[str] = []
    for case, found in zip(cases, judged(bundle, cases), strict=True):
        said = f"line {case.line}: '{case.shown}' under {case.profile.value}"
        if case.risk is not None and found.risk.value != case.risk:
            faults.append(f"{said} should be {case.risk}, it is {found.risk.value}")
        if case.outcome is not None and found.outcome.value != case.outcome:
            faults.append(f"{said} should come to '{case.outcome}', it comes to '{found.outcome.value}'")
    return faults


def _judge(classifier: Classifier, case: Case) -> Classification:
    return classifier.classify(case.tool, case.arguments, case.profile)


def _case(name: str, number: int, line: bytes) -> Case:
    if len(line) > MAX_LINE:
        raise BundleError(f"{name}, line {number}: longer than {MAX_LINE} bytes")
    try:
        spec = CaseSpec.model_validate_json(line)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise BundleError(f"{name}, line {number}: {where + ': ' if where else ''}{fault['msg']}") from None
    arguments: str | dict[str, JsonValue] = {"command": spec.command} if spec.arguments is None else spec.arguments
    return Case(number, spec.tool or "shell", arguments, GateProfile(spec.profile), spec.risk, spec.outcome)
