"""Whole sessions of agents under `coding`: their work flows, and what is planted in them does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.gate.classify import Classification, Classifier
from deployments.ports import GateProfile

SESSIONS = Path(__file__).parents[2] / "gate" / "sessions"
NAMES = ("codex", "claude-code", "opencode")


def calls(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SESSIONS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def classified(classifier: Classifier, call: dict[str, Any]) -> Classification:
    return classifier.classify(call["tool"], call["arguments"], GateProfile.CODING)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_an_ordinary_session_is_held(classifier: Classifier, name: str) -> None:
    session = calls(name)
    assert len(session) >= (60 if name == "codex" else 30)
    held = [(call, found.reasons) for call in session if (found := classified(classifier, call)).outcome != "release"]
    assert held == []


@pytest.mark.parametrize("name", NAMES)
def test_exactly_the_planted_calls_are_held(classifier: Classifier, name: str) -> None:
    session, planted = calls(name), calls(f"{name}.planted")
    assert len(planted) == 5
    for call in reversed(planted):
        session.insert(call["after"], call)
    held = [call for call in session if classified(classifier, call).outcome != "release"]
    assert held == planted


@pytest.mark.parametrize("name", NAMES)
def test_under_ops_the_changes_of_a_session_are_held(classifier: Classifier, name: str) -> None:
    for call in calls(name):
        found = classifier.classify(call["tool"], call["arguments"])
        assert (found.outcome == "release") == (found.risk.value == "R0"), call
