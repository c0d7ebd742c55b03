"""Every graded line of `tests/gate/corpora`: nothing dangerous released, little that is harmless held."""

from collections import Counter

import pytest

from deployments.gate.classify import Classification
from deployments.gate.policy import Bundle
from deployments.ports import GateProfile, Risk
from tests.gate.mutate import CORPORA, Line, corpus
from tests.gate.together import classify_each

LEAST_LINES = 3_000
HELD_SHARE = 0.05
SMALL = 20  # of a program with fewer R0 lines, one may be held

Judged = list[tuple[Line, Classification]]


@pytest.fixture(scope="module")
def judged(bundle: Bundle) -> Judged:
    lines = corpus()
    return list(zip(lines, classify_each(bundle, [line.command for line in lines]), strict=True))


def test_nothing_dangerous_is_released(judged: Judged) -> None:
    assert [line for line, found in judged if line.risk != "R0" and found.outcome == "release"] == []


def test_nothing_dangerous_is_released_in_a_coding_session(bundle: Bundle) -> None:
    lines = [line for line in corpus() if line.risk in {"R3", "FORBIDDEN"}]
    found = classify_each(bundle, [line.command for line in lines], GateProfile.CODING)
    assert [line for line, one in zip(lines, found, strict=True) if one.outcome == "release"] == []


def test_no_line_is_milder_than_its_grade(judged: Judged) -> None:
    # Between held and held with two people lies no release, so a few percent may differ; R0 and FORBIDDEN may not.
    milder = [line for line, found in judged if found.risk.rank < Risk(line.risk).rank]
    assert len(milder) <= 0.03 * len(judged), milder[:40]


def test_few_harmless_lines_are_held(judged: Judged) -> None:
    harmless = Counter(line.program for line, _ in judged if line.risk == "R0")
    lines = [line for line, found in judged if line.risk == "R0" and found.outcome != "release"]
    held = Counter(line.program for line in lines)
    for program, count in harmless.most_common():
        print(f"{program:24} {count:5} R0 {held[program]:4} held")
    allowed = {program: max(1 if count < SMALL else 0, int(count * HELD_SHARE)) for program, count in harmless.items()}
    assert {program: count for program, count in held.items() if count > allowed[program]} == {}
    assert sum(held.values()) <= HELD_SHARE * sum(harmless.values())


def test_there_are_enough_lines_and_none_twice() -> None:
    for path in CORPORA.glob("*.jsonl"):
        lines = [line.command for line in corpus(path.stem)]
        assert len(set(lines)) == len(lines), path.name
        assert all(Risk(line.risk) for line in corpus(path.stem))
    if len(list(CORPORA.glob("*.jsonl"))) >= 5:
        assert len(corpus()) >= LEAST_LINES
