"""The one-line notices a client reads in place of a call that was not released (wire contract, section 13)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import assert_never

from deployments.ports import Denied, Held, JsonValue, Receipt, Released, Verdict, Withheld


def notice(verdict: Held | Denied | Withheld) -> str:
    """One parseable line; never an argument of the call."""
    match verdict:
        case Held():
            expires = datetime.fromtimestamp(verdict.expires_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            need = "a rollback plan, a change id and approval" if verdict.plan_required else "approval"
            return (
                f"[gatehouse:held id={verdict.approval_id} risk={verdict.risk.value} tool={_safe(verdict.call.name)} "
                f"expires={expires}] Not executed; needs {need}. Continue other work or stop."
            )
        case Denied():
            return (
                f"[gatehouse:denied id={verdict.gate_call_id} risk={verdict.risk.value} "
                f"tool={_safe(verdict.call.name)}] Not executed; do not retry. Reason: {_reasons(verdict.reasons)}."
            )
        case Withheld() if verdict.call.defect is not None:
            return (
                f"[gatehouse:withheld tool={_safe(verdict.call.name)}] Not executed. Reason: {verdict.reason} "
                "If it is still needed, make a proper tool call."
            )
        case Withheld():
            return (
                f"[gatehouse:unavailable tool={_safe(verdict.call.name)}] Not executed. "
                f"Reason: {verdict.reason.rstrip('.')}. Tool calls fail closed; try again later."
            )
        case _:
            assert_never(verdict)


def notices(verdicts: Sequence[Verdict]) -> str:
    """The notices of everything that was not released, one per line; empty when all was."""
    return "\n".join(notice(verdict) for verdict in verdicts if not isinstance(verdict, Released))


def held_objects(verdicts: Sequence[Verdict]) -> list[JsonValue]:
    """The `x_gatehouse.held` list: who waits for what, without arguments."""
    held: list[JsonValue] = []
    for verdict in verdicts:
        match verdict:
            case Held():
                held.append(
                    {
                        "call_id": verdict.call.call_id,
                        "approval_id": verdict.approval_id,
                        "state": "held",
                        "risk": verdict.risk.value,
                        "reasons": list(verdict.reasons),
                        "plan_required": verdict.plan_required,
                        "audit": _receipt(verdict.receipt),
                    }
                )
            case Denied():
                held.append(
                    {
                        "call_id": verdict.call.call_id,
                        "approval_id": None,
                        "state": "denied",
                        "risk": verdict.risk.value,
                        "reasons": list(verdict.reasons),
                        "plan_required": False,
                        "audit": _receipt(verdict.receipt),
                    }
                )
            case Withheld():
                held.append(
                    {
                        "call_id": verdict.call.call_id,
                        "approval_id": None,
                        "state": "unavailable" if verdict.call.defect is None else "withheld",
                        "risk": None,
                        "reasons": [verdict.reason],
                        "plan_required": False,
                    }
                )
            case Released():
                pass
            case _:
                assert_never(verdict)
    return held


def _receipt(receipt: Receipt) -> dict[str, JsonValue]:
    return {"index": receipt.index, "leaf": receipt.leaf_hash.hex()}


def _safe(name: str) -> str:
    """A tool name comes from a model: keep the notice one parseable line."""
    cleaned = "".join(c if c.isalnum() or c in "_-./" else "?" for c in name[:64])
    return cleaned or "?"


def _reasons(reasons: Sequence[str]) -> str:
    return "; ".join(reasons) if reasons else "policy"
