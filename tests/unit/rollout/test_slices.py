import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.ports import SessionId, TenantId
from deployments.rollouts import Kind, Slice
from deployments.slices import PLACES, is_candidates, place, revision_for

SPLIT = Slice("ro-1", Kind.MODEL, "demo-20b", "new", "old", 5)
TENANT = TenantId("acme")
MANY = 40_000
# 99.9 % of chi-square with 99 degrees of freedom.
MOST_CHI_SQUARE = 148.23


def sessions(prefix: str) -> list[SessionId]:
    return [SessionId(f"{prefix}{number}") for number in range(MANY)]


@given(st.text(), st.text(), st.text(), st.integers(0, 100), st.integers(0, 100))
def test_who_was_in_a_smaller_share_is_in_a_larger_one(
    rollout: str, tenant: str, session: str, one: int, other: int
) -> None:
    small, large = sorted((one, other))
    split = replace(SPLIT, rollout_id=rollout, share=small)
    if is_candidates(split, TenantId(tenant), SessionId(session)):
        assert is_candidates(replace(split, share=large), TenantId(tenant), SessionId(session))


@given(st.text(), st.text())
def test_nobody_at_0_and_everybody_at_100(tenant: str, session: str) -> None:
    for share, revision in ((0, "old"), (100, "new")):
        assert revision_for(replace(SPLIT, share=share), TenantId(tenant), SessionId(session)) == revision


@pytest.mark.parametrize("prefix", ["session-", "0", "user@example.com/"], ids=["words", "digits", "mail"])
def test_sessions_are_spread_evenly(prefix: str) -> None:
    cells = [0] * 100
    for session in sessions(prefix):
        cells[place("ro-1", TENANT, session) * 100 // PLACES] += 1
    expected = MANY / 100
    assert sum((count - expected) ** 2 / expected for count in cells) < MOST_CHI_SQUARE


def test_the_next_rollout_takes_others_first() -> None:
    here, there = SPLIT, replace(SPLIT, rollout_id="ro-2")
    both = [is_candidates(here, TENANT, each) and is_candidates(there, TENANT, each) for each in sessions("s")]
    alone = sum(is_candidates(here, TENANT, each) for each in sessions("s"))
    # Of 2,000 in the first slice 100 are in the second one as well, if they have nothing to do with each other.
    assert 50 < sum(both) < 150 < alone


def test_two_tenants_with_the_same_session_ids_are_different_sessions() -> None:
    same = [place("ro-1", TENANT, each) == place("ro-1", TenantId("other"), each) for each in sessions("s")]
    assert sum(same) < 20
    assert place("ro-1", TenantId("ab"), SessionId("c")) != place("ro-1", TenantId("a"), SessionId("bc"))


def test_another_process_gives_the_same_places() -> None:
    names = [f"session-{number}" for number in range(50)]
    program = (
        "import sys; from deployments.slices import place;print([place('ro-1', 'acme', each) for each in sys.argv[1:]])"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program, *names],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    ]
    here = str([place("ro-1", TENANT, SessionId(each)) for each in names]) + "\n"
    assert found == [here, here]


def test_the_places_never_change() -> None:
    """A release that moved them would throw every session of a running rollout to the other revision."""
    assert [place("ro-1", TENANT, SessionId(each)) for each in ("a", "b", "")] == [5164, 1779, 9027]
