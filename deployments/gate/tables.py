"""The two decision tables, as shipped, and the laws that every bundle's tables obey.

Table A gives the effective class of a command from its base class and from what it touches; table B gives the outcome
of a class under a gate profile. A bundle may be stricter than these tables and never laxer.
"""

from collections.abc import Mapping
from enum import StrEnum
from itertools import product
from typing import TypeAlias

from deployments.ports import GateProfile, Risk


class Base(StrEnum):
    """What a rule says of a command before its target is known."""

    R0 = "R0"
    R1 = "R1"
    R2 = "R2"
    UNKNOWN = "UNKNOWN"
    OPAQUE = "OPAQUE"
    R3 = "R3"
    FORBIDDEN = "FORBIDDEN"


class Env(StrEnum):
    """Where a command acts; unknown or mixed is production."""

    NONPROD = "nonprod"
    PROD = "prod"


class Sensitivity(StrEnum):
    """Whether a target is sensitive (secrets, access rights, backups ...); unknown is."""

    NORMAL = "normal"
    SENSITIVE = "sensitive"


class Egress(StrEnum):
    """Where data may go: nowhere, to a listed host, or elsewhere."""

    NONE = "none"
    LISTED = "listed"
    OTHER = "other"


class Outcome(StrEnum):
    """What happens to a call."""

    RELEASE = "release"
    NEEDS_PLAN = "needs_plan"
    HOLD = "hold"
    FORBID = "forbid"


class Standing(StrEnum):
    """The rows of table B: a class, R1 split by whether a standing rollback plan of the profile covers it."""

    R0 = "R0"
    COVERED = "R1_covered"
    R1 = "R1"
    R2 = "R2"
    R3 = "R3"
    FORBIDDEN = "FORBIDDEN"


Cell: TypeAlias = tuple[Base, Env, Sensitivity, Egress]
TableA: TypeAlias = Mapping[Cell, Risk]
TableB: TypeAlias = Mapping[tuple[GateProfile, Standing], Outcome]

ENVS = tuple(Env)
SENSITIVITIES = tuple(Sensitivity)
EGRESSES = tuple(Egress)
COLUMNS = tuple(product(SENSITIVITIES, EGRESSES))
OUTCOME_ORDER = tuple(Outcome)

# From harmless to never; UNKNOWN and R2 are the same row of the table.
BASE_ORDER = (Base.R0, Base.R1, Base.R2, Base.OPAQUE, Base.R3, Base.FORBIDDEN)
STANDING_ORDER = tuple(Standing)


def _row(text: str) -> tuple[Risk, ...]:
    return tuple(Risk.FORBIDDEN if cell == "F" else Risk(cell) for cell in text.split())


_SHIPPED_A: dict[tuple[Base, Env], tuple[Risk, ...]] = {
    # columns:                 normal: none listed other | sensitive: none listed other
    (Base.R0, Env.NONPROD): _row("R0 R1 R2 R1 R1 R2"),
    (Base.R0, Env.PROD): _row("R0 R1 R2 R1 R1 R2"),
    (Base.R1, Env.NONPROD): _row("R1 R1 R2 R2 R2 R2"),
    (Base.R1, Env.PROD): _row("R2 R2 R2 R2 R2 R2"),
    (Base.R2, Env.NONPROD): _row("R2 R2 R2 R3 R3 R3"),
    (Base.R2, Env.PROD): _row("R2 R2 R2 R3 R3 R3"),
    (Base.UNKNOWN, Env.NONPROD): _row("R2 R2 R2 R3 R3 R3"),
    (Base.UNKNOWN, Env.PROD): _row("R2 R2 R2 R3 R3 R3"),
    (Base.OPAQUE, Env.NONPROD): _row("R2 R2 R2 R3 R3 R3"),
    (Base.OPAQUE, Env.PROD): _row("R3 R3 R3 R3 R3 R3"),
    (Base.R3, Env.NONPROD): _row("R3 R3 R3 R3 R3 R3"),
    (Base.R3, Env.PROD): _row("R3 R3 R3 R3 R3 R3"),
    (Base.FORBIDDEN, Env.NONPROD): _row("F F F F F F"),
    (Base.FORBIDDEN, Env.PROD): _row("F F F F F F"),
}
SHIPPED_A: TableA = {
    (base, env, *column): risk
    for (base, env), row in _SHIPPED_A.items()
    for column, risk in zip(COLUMNS, row, strict=True)
}

_STRICT_B = {
    Standing.R0: Outcome.RELEASE,
    Standing.COVERED: Outcome.NEEDS_PLAN,
    Standing.R1: Outcome.NEEDS_PLAN,
    Standing.R2: Outcome.HOLD,
    Standing.R3: Outcome.HOLD,
    Standing.FORBIDDEN: Outcome.FORBID,
}
SHIPPED_B: TableB = {
    **{(GateProfile.OPS, row): outcome for row, outcome in _STRICT_B.items()},
    **{
        (GateProfile.CODING, row): Outcome.RELEASE if row is Standing.COVERED else outcome
        for row, outcome in _STRICT_B.items()
    },
    # observe classifies and records; it holds nothing but what nothing may ever release.
    **{
        (GateProfile.OBSERVE, row): Outcome.FORBID if row is Standing.FORBIDDEN else Outcome.RELEASE for row in Standing
    },
}


def faults_a(table: TableA) -> list[str]:
    """Every law that `table` breaks: total, monotone, not below the shipped one. Empty when it is sound."""
    cells = list(product(Base, ENVS, SENSITIVITIES, EGRESSES))
    missing = [cell for cell in cells if cell not in table]
    if missing:
        return [f"table A has no cell for {'/'.join(cell)}" for cell in missing]
    faults = [
        f"table A puts {'/'.join(cell)} at {table[cell]}, below the shipped {SHIPPED_A[cell]}"
        for cell in cells
        if table[cell].rank < SHIPPED_A[cell].rank
    ]
    for cell in cells:
        faults += [
            f"table A falls from {table[cell]} at {'/'.join(cell)} to {table[above]} at {'/'.join(above)}"
            for above in _raised(cell)
            if table[above].rank < table[cell].rank
        ]
    return faults


def faults_b(table: TableB) -> list[str]:
    """Every law that the outcomes break: total, monotone in the class, not below the shipped ones."""
    faults: list[str] = []
    for profile in GateProfile:
        ranks: list[int] = []
        for row in STANDING_ORDER:
            outcome = table.get((profile, row))
            if outcome is None:
                faults.append(f"table B has no outcome for {row} under {profile}")
                continue
            ranks.append(OUTCOME_ORDER.index(outcome))
            if ranks[-1] < OUTCOME_ORDER.index(SHIPPED_B[profile, row]):
                faults.append(f"table B lets {row} under {profile} {outcome}, below the shipped outcome")
        if ranks != sorted(ranks):
            faults.append(f"table B is milder on a higher class under {profile}")
    return faults


def _raised(cell: Cell) -> list[Cell]:
    """The cells one step worse in one input."""
    base, env, sensitivity, egress = cell
    found: list[Cell] = []
    if base is Base.UNKNOWN:
        found += [(Base.R2, env, sensitivity, egress), (Base.OPAQUE, env, sensitivity, egress)]
    else:
        step = BASE_ORDER.index(base) + 1
        found += [(above, env, sensitivity, egress) for above in BASE_ORDER[step : step + 1]]
        if base is Base.R1:
            found.append((Base.UNKNOWN, env, sensitivity, egress))
    if env is Env.NONPROD:
        found.append((base, Env.PROD, sensitivity, egress))
    if sensitivity is Sensitivity.NORMAL:
        found.append((base, env, Sensitivity.SENSITIVE, egress))
    found += [(base, env, sensitivity, above) for above in EGRESSES[EGRESSES.index(egress) + 1 :][:1]]
    return found
