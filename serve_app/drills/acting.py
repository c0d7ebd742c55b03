"""What all drills on a running server share: who asks, what was found, and the report of it."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2

_WAIT_S = 20.0
_PAUSE_S = 0.25
_GONE = 404


class DrillRefused(Exception):
    """The drill could not be carried out; the text says why. It says nothing about what is under test."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One expectation of the drill. `seen` is what happened, for whoever reads a failure."""

    what: str
    held: bool
    seen: str


@dataclass(frozen=True, slots=True)
class DrillReport:
    """The outcome. `change_id` is under which the drill is on record, `tenant` where its records are.

    `facts` are figures of the drill, by name: plain data.
    """

    drill: str
    tenant: str
    change_id: str
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def ok(self) -> bool:
        """True when every expectation held."""
        return bool(self.findings) and all(each.held for each in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        findings = [{"what": each.what, "held": each.held, "seen": each.seen} for each in self.findings]
        return {
            "drill": self.drill,
            "ok": self.ok,
            "tenant": self.tenant,
            "change_id": self.change_id,
            "findings": findings,
            **self.facts,
        }


class Findings:
    """What was found so far; `tell` hears of each at once."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self.all: list[Finding] = []
        self._tell = tell

    def add(self, what: str, held: bool, seen: str) -> bool:
        """Note an expectation; answers `held`."""
        self.all.append(Finding(what, held, seen))
        self._tell(f"{'held  ' if held else 'FAILED'} {what} ({seen})")
        return held


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    body: Mapping[str, Any]

    @property
    def said(self) -> str:
        """Its error message, or its status."""
        error = self.body.get("error")
        message = cast(Mapping[str, Any], error).get("message") if isinstance(error, dict) else None
        return str(message or self.body.get("status") or self.body.get("state") or self.status)[:160]


class Actor:
    """Somebody with a key."""

    def __init__(self, http: httpx2.Client, key: str, key_id: str = "") -> None:
        self.http = http
        self.headers = {"authorization": f"Bearer {key}"}
        self.key_id = key_id

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        """The server's answer, whatever it is; `DrillRefused` when there is none."""
        try:
            reply = self.http.request(method, path, json=body, headers=self.headers)
        except httpx2.TransportError as error:
            raise DrillRefused(f"no Gatehouse answers at {self.http.base_url} ({type(error).__name__})") from None
        try:
            value: Any = reply.json()
        except ValueError:
            value = {"text": reply.text}
        return Answer(reply.status_code, cast(dict[str, Any], value) if isinstance(value, dict) else {"value": value})

    def same_server(self, key: str, key_id: str) -> "Actor":
        """Somebody else with a key of the same server."""
        return Actor(self.http, key, key_id)

    def must(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Mapping[str, Any]:
        """The body of a success; `DrillRefused` for anything else."""
        answer = self.ask(method, path, body)
        if answer.status >= 400:
            raise DrillRefused(f"{method} {path} was refused: {answer.said}")
        return answer.body


def put_away(who: Actor, wanted: Sequence[tuple[str, str, Mapping[str, object] | None]]) -> None:
    """Ask for all of this (method, path, body), whatever becomes of each; what is gone already is well.

    `DrillRefused` names what stays behind, after the reason for which the drill ended, if there is one.
    """
    left: list[str] = []
    for method, path, body in wanted:
        try:
            done = who.ask(method, path, body).status
        except DrillRefused:
            done = 0
        if not 200 <= done < 300 and done != _GONE:
            left.append(f"{method} {path}")
    if left:
        why = sys.exception()
        said = f"{str(why).rstrip('.')}; and " if isinstance(why, DrillRefused) else ""
        raise DrillRefused(f"{said}what it made stays behind, put it away by hand: {', '.join(left)}")


def until(there: Callable[[], bool], wait_s: float = _WAIT_S, pause_s: float = _PAUSE_S) -> bool:
    """True as soon as it is so, False when it was not in time."""
    ends = time.perf_counter() + wait_s
    while not there():
        if time.perf_counter() >= ends:
            return False
        time.sleep(pause_s)
    return True
