"""The runbook names commands that exist with the options they are given, and a section for what drills point at."""

import re
import shlex
from collections.abc import Iterator

import pytest

from serve_app.config import ROOT
from serve_app.drills import inc01, inc02, inc03
from serve_app.drills.conduct import RUNBOOK
from serve_app.drills.rules import rules_of
from tests.unit.cli.commands import fault

TEXT = (ROOT / RUNBOOK).read_text(encoding="utf-8")
_BLOCK = r"(?ms)^ *```\w*\n(.*?)^ *```"
BLOCKS = re.findall(_BLOCK, TEXT)
INLINE = re.findall(r"`(gatehouse [^`]+)`", re.sub(_BLOCK, "", TEXT))


def commands() -> Iterator[str]:
    """Every `gatehouse ...` of the runbook: those after a prompt in its blocks, and those inside sentences."""
    for block in BLOCKS:
        joined = block.replace("\\\n", " ")
        for line in map(str.strip, joined.splitlines()):
            if line.startswith("$ "):
                yield from (part.strip() for part in re.split(r"&&|\|\|?|;", line[2:]))
    yield from INLINE


GATEHOUSE = sorted({each.split(" > ")[0].split(" #")[0] for each in commands() if each.startswith("gatehouse ")})


@pytest.mark.parametrize("line", GATEHOUSE)
def test_every_command_of_the_runbook_exists(line: str) -> None:
    assert fault(shlex.split(line)) is None


def test_the_runbook_has_commands_at_all() -> None:
    assert len(GATEHOUSE) > 25
    wanted = ("up", "doctor", "status", "check-config", "drill inc-01", "drill inc-02", "drill inc-03", "drill inc-04")
    for each in (*wanted, "drill restore", "backup", "restore", "rollout start", "rollout rollback", "change close"):
        assert any(line == f"gatehouse {each}" or line.startswith(f"gatehouse {each} ") for line in GATEHOUSE), each


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gatehouse nothing", "there is no nothing"),
        ("gatehouse keys", "it is a group, not a command"),
        ("gatehouse status --nothing", "it has no --nothing"),
        ("gatehouse change close a b --outcome succeeded", "it takes 1 arguments, not 2"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, said: str) -> None:
    assert fault(shlex.split(line)) == said


@pytest.mark.parametrize("plan", [inc01.PLAN, inc02.PLAN, inc03.PLAN], ids=lambda plan: plan.name)
def test_what_a_drill_points_at_is_there(plan: "inc01.Plan") -> None:
    assert plan.alert in rules_of(plan.incident).alerts
    assert f"\n### {plan.section}\n" in TEXT
    section = TEXT.split(f"\n### {plan.section}\n")[1].split("\n### ")[0].split("\n## ")[0]
    assert plan.alert in section
    assert f"gatehouse drill {plan.name}" in section
    for step in plan.steps:
        if step.startswith("gatehouse "):
            assert fault(shlex.split(step)) is None


def test_every_alert_of_an_incident_is_in_its_section() -> None:
    for incident in ("INC-01", "INC-02", "INC-03", "INC-04"):
        section = TEXT.split(f"\n### {incident}: ")[1].split("\n### ")[0].split("\n## ")[0]
        assert [name for name in rules_of(incident).alerts if name not in section] == []
