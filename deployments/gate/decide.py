"""From a class to what happens: table B, and nothing else."""

from deployments.gate.tables import Outcome, Standing, TableB
from deployments.ports import GateProfile, Risk


def row(risk: Risk, covered: bool) -> Standing:
    """The row of table B: `covered` counts for R1 alone, whatever it is said to be for another class."""
    if risk is Risk.R1 and covered:
        return Standing.COVERED
    return Standing(risk.value)


def decide(table: TableB, profile: GateProfile, risk: Risk, covered: bool) -> Outcome:
    """What happens to a call of class `risk` under `profile`; an empty cell, which no loaded bundle has, holds."""
    return table.get((profile, row(risk, covered)), Outcome.HOLD)
