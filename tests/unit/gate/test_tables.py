from itertools import product

import pytest

from deployments.gate.decide import decide, row
from deployments.gate.policy import Bundle
from deployments.gate.tables import (
    EGRESSES,
    ENVS,
    SENSITIVITIES,
    SHIPPED_A,
    SHIPPED_B,
    Base,
    Egress,
    Env,
    Outcome,
    Sensitivity,
    Standing,
    faults_a,
    faults_b,
)
from deployments.ports import GateProfile, Risk

CELLS = list(product(Base, ENVS, SENSITIVITIES, EGRESSES))


def test_table_a_as_written_down_in_the_reference() -> None:
    def cells(base: Base, env: Env) -> str:
        found = [SHIPPED_A[base, env, sensitivity, egress] for sensitivity in Sensitivity for egress in Egress]
        return " ".join("F" if risk is Risk.FORBIDDEN else risk.value for risk in found)

    assert len(SHIPPED_A) == 84
    for env in Env:
        assert cells(Base.R0, env) == "R0 R1 R2 R1 R1 R2"
        assert cells(Base.R2, env) == cells(Base.UNKNOWN, env) == "R2 R2 R2 R3 R3 R3"
        assert cells(Base.R3, env) == "R3 R3 R3 R3 R3 R3"
        assert cells(Base.FORBIDDEN, env) == "F F F F F F"
    assert cells(Base.R1, Env.NONPROD) == "R1 R1 R2 R2 R2 R2"
    assert cells(Base.R1, Env.PROD) == "R2 R2 R2 R2 R2 R2"
    assert cells(Base.OPAQUE, Env.NONPROD) == "R2 R2 R2 R3 R3 R3"
    assert cells(Base.OPAQUE, Env.PROD) == "R3 R3 R3 R3 R3 R3"


def test_the_shipped_tables_are_sound(bundle: Bundle) -> None:
    assert faults_a(SHIPPED_A) == []
    assert faults_b(SHIPPED_B) == []
    assert dict(bundle.table_a) == dict(SHIPPED_A)
    assert dict(bundle.table_b) == dict(SHIPPED_B)


@pytest.mark.parametrize("cell", CELLS)
def test_a_hole_or_a_lowered_cell_is_refused(cell: tuple[Base, Env, Sensitivity, Egress]) -> None:
    table = dict(SHIPPED_A)
    del table[cell]
    assert faults_a(table)
    for risk in Risk:
        if risk.rank < SHIPPED_A[cell].rank:
            assert faults_a({**SHIPPED_A, cell: risk})


def test_an_inversion_above_the_floor_is_refused() -> None:
    cell = (Base.R0, Env.NONPROD, Sensitivity.NORMAL, Egress.NONE)
    assert any("falls from" in fault for fault in faults_a({**SHIPPED_A, cell: Risk.R3}))


ORDERS = (
    (Base.R0, Base.R1, Base.R2, Base.OPAQUE, Base.R3, Base.FORBIDDEN),
    (Base.R1, Base.UNKNOWN, Base.OPAQUE),
    (Base.UNKNOWN, Base.R2),
)


@pytest.mark.parametrize("cell", CELLS)
def test_no_cell_may_be_above_one_that_is_worse_in_one_input(cell: tuple[Base, Env, Sensitivity, Egress]) -> None:
    base, env, sensitivity, egress = cell
    worse = {(above, env, sensitivity, egress) for order in ORDERS if base in order[:-1]
             for above in order[order.index(base) + 1 : order.index(base) + 2]}  # fmt: skip
    worse |= {(base, above, sensitivity, egress) for above in ENVS[ENVS.index(env) + 1 :]}
    worse |= {(base, env, above, egress) for above in SENSITIVITIES[SENSITIVITIES.index(sensitivity) + 1 :]}
    worse |= {(base, env, sensitivity, above) for above in EGRESSES[EGRESSES.index(egress) + 1 :][:1]}
    for other in worse:
        # Everything else is as bad as it gets, so that only these two cells can be at odds.
        table = dict.fromkeys(CELLS, Risk.FORBIDDEN) | {other: SHIPPED_A[other]}
        expected = SHIPPED_A[other] is not Risk.FORBIDDEN
        found = [fault for fault in faults_a(table) if f"at {'/'.join(cell)} to" in fault and "/".join(other) in fault]
        assert bool(found) is expected, (cell, other)


@pytest.mark.parametrize("profile", list(GateProfile))
def test_outcomes_never_get_milder_on_a_higher_class(profile: GateProfile) -> None:
    for row_below, row_above in zip(list(Standing)[:-1], list(Standing)[1:], strict=True):
        table = dict(SHIPPED_B) | {(profile, each): Outcome.FORBID for each in Standing}
        assert faults_b(table) == []
        table[profile, row_above] = SHIPPED_B[profile, row_above]
        assert bool(faults_b(table)) is (SHIPPED_B[profile, row_above] is not Outcome.FORBID), row_below


@pytest.mark.parametrize("key", list(SHIPPED_B))
def test_a_missing_or_milder_outcome_is_refused(key: tuple[GateProfile, Standing]) -> None:
    table = dict(SHIPPED_B)
    del table[key]
    assert faults_b(table)
    for outcome in list(Outcome)[: list(Outcome).index(SHIPPED_B[key])]:
        assert faults_b({**SHIPPED_B, key: outcome})


@pytest.mark.parametrize(("profile", "risk", "covered"), list(product(GateProfile, Risk, [False, True])))
def test_every_outcome(profile: GateProfile, risk: Risk, covered: bool) -> None:
    found = decide(SHIPPED_B, profile, risk, covered)
    if risk is Risk.FORBIDDEN:
        expected = Outcome.FORBID
    elif profile is GateProfile.OBSERVE or risk is Risk.R0:
        expected = Outcome.RELEASE
    elif risk is Risk.R1:
        expected = Outcome.RELEASE if covered and profile is GateProfile.CODING else Outcome.NEEDS_PLAN
    else:
        expected = Outcome.HOLD
    assert found is expected


def test_an_empty_table_holds() -> None:
    assert decide({}, GateProfile.OPS, Risk.R0, False) is Outcome.HOLD


def test_cover_counts_for_r1_alone() -> None:
    assert [row(risk, True) for risk in Risk] == [
        Standing.R0, Standing.COVERED, Standing.R2, Standing.R3, Standing.FORBIDDEN,
    ]  # fmt: skip
