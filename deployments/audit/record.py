"""Audit record v1: which events exist, which fields each may carry, and the bytes of a record.

The law of this schema: event names and fields are added, never removed, renamed or given another meaning. A record
that does not fit is refused at the producer's door, because a log that takes anything proves nothing. No field holds a
prompt, an answer or an argument: those appear as digests (`*_digest`) or salted commitments (`*_commit`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from rfc8785 import CanonicalizationError

from deployments.audit.canonical import canonical
from deployments.errors import AuditRefused
from deployments.ports import AuditEvent, JsonValue

SCHEMA = "gatehouse.audit/1"
MAX_RECORD_BYTES = 16_384
MAX_TEXT_CHARS = 1_024
MAX_LIST_ITEMS = 64
MAX_INTEGER = 2**53 - 1  # RFC 8785 has no exact form beyond it

_ENVELOPE = frozenset(
    {
        "schema",
        "sequence",
        "event_id",
        "name",
        "at_ms",
        "tenant",
        "principal",
        "request_id",
        "session",
        "code_version",
        "data",
    }
)


class InvalidRecord(AuditRefused):
    """The event does not fit record v1; nothing of its call was appended."""


# --- kinds of values ---------------------------------------------------------------------------------------------


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARS


def _is_texts(value: object) -> bool:
    if not isinstance(value, list):
        return False
    items = cast("list[object]", value)
    return len(items) <= MAX_LIST_ITEMS and all(map(_is_text, items))


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def _is_number(value: object) -> bool:
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


Kind = Callable[[object], bool]
_KINDS: Mapping[str, tuple[Kind, str]] = {
    "text": (_is_text, f"text of at most {MAX_TEXT_CHARS} characters"),
    "texts": (_is_texts, f"a list of at most {MAX_LIST_ITEMS} texts"),
    "sha256": (_is_sha256, "a SHA-256 in 64 lower-case hex digits"),
    "count": (_is_count, "an integer from 0 to 2**53 - 1"),
    "number": (_is_number, "a finite number"),
    "flag": (_is_flag, "true or false"),
}

# --- the table ---------------------------------------------------------------------------------------------------

FIELDS: Mapping[str, str] = {
    # a field means the same in every event that carries it
    "action_digest": "sha256",  # of the whole binding of a call
    "approval_id": "text",
    "approve": "flag",
    "arguments_commit": "sha256",  # salted commitment to the canonical arguments
    "budget_tokens": "count",  # of a key, for all its time; null: none
    "cached_tokens": "count",
    "call_id": "text",  # as the model wrote it
    "change_id": "text",
    "choice": "count",
    "config_digest": "sha256",
    "dialect": "text",
    "difficulty": "number",
    "display_digest": "sha256",  # of what an approver sees
    "duration_ms": "count",
    "effort": "text",
    "epoch": "count",  # how often the log was opened for writing, this time included
    "error_code": "text",
    "estimated": "flag",
    "expires_ms": "count",
    "fingerprint": "sha256",  # of the binding without its random call id
    "finish_reasons": "texts",
    "attempts": "count",  # generations it took; 2 when a malformed reply was thrown away
    "gate_call_id": "text",
    "gate_profile": "text",  # of a key
    "head_hash": "sha256",
    "hold_s": "count",  # of a key: how long a call that needs an approval waits for it
    "index": "count",  # of a call within its turn
    "input_tokens": "count",
    "key_id": "text",
    "key_name": "text",
    "model": "text",
    "models": "texts",
    "outcome": "text",
    "output_tokens": "count",
    "permit_id": "text",
    "person": "text",
    "plan_required": "flag",
    "policy_digest": "sha256",
    "profile": "text",  # the gate profile that a call was judged under: observe, coding or ops
    "reason": "text",
    "reason_commit": "sha256",  # salted commitment to a human's words
    "reasoning_tokens": "count",
    "reasons": "texts",
    "recovered": "flag",
    "repairs": "texts",  # what was guessed when malformed model output was repaired
    "requested_effort": "text",
    "requested_model": "text",
    "requester_key": "text",
    "requester_person": "text",
    "revision": "text",
    "risk": "text",
    "rollback_digest": "sha256",
    "route_id": "text",
    "rule_set": "text",
    "scopes": "texts",
    "size": "count",
    "standing_plan": "text",  # id of the policy object that covers a change without a plan of its own
    "state": "text",
    "status": "count",  # HTTP
    "stream": "flag",
    "tier": "text",
    "tool": "text",
    "tool_calls": "count",
    "torn_bytes": "count",
    "ttft_ms": "count",
    "ttl_s": "count",
    "version": "text",
    "voter": "text",  # the natural person
    "voter_key": "text",
    "voters": "texts",
    "votes": "count",
    "votes_required": "count",
}


@dataclass(frozen=True, slots=True)
class EventSchema:
    """Fields of one event. An optional field may be absent or null; nothing else may be there."""

    required: frozenset[str]
    allowed: frozenset[str]


def _event(required: str, optional: str) -> EventSchema:
    names = frozenset(required.split())
    return EventSchema(required=names, allowed=names | frozenset(optional.split()))


_CALL = (
    "action_digest approval_id arguments_commit call_id change_id choice dialect display_digest expires_ms fingerprint "
    "gate_call_id index model outcome permit_id plan_required policy_digest profile reason reasons recovered risk "
    "rollback_digest route_id rule_set standing_plan tier tool votes_required"
)
_APPROVAL = (
    "action_digest approval_id approve change_id display_digest expires_ms fingerprint gate_call_id model outcome "
    "permit_id plan_required policy_digest reason reason_commit reasons requester_key requester_person risk "
    "rollback_digest route_id state tool voter voter_key voters votes votes_required"
)
_KEY = "expires_ms gate_profile key_name models person scopes ttl_s reason hold_s budget_tokens"

EVENTS: Mapping[str, EventSchema] = {
    # event                  required                                                          optional
    "route.decided": _event(
        "route_id model tier effort reason policy_digest",
        "dialect difficulty reasons requested_effort requested_model revision stream",
    ),
    "generation.finished": _event(
        "route_id model outcome",
        "attempts cached_tokens dialect duration_ms effort error_code estimated finish_reasons input_tokens "
        "output_tokens reason reasoning_tokens repairs revision status stream tier tool_calls ttft_ms",
    ),
    "tool_call.proposed": _event("gate_call_id tool", _CALL),
    "tool_call.classified": _event("gate_call_id tool risk outcome policy_digest", _CALL),
    "tool_call.held": _event("gate_call_id tool risk action_digest approval_id", _CALL),
    "tool_call.released": _event("gate_call_id tool risk action_digest profile", _CALL),
    "tool_call.denied": _event("gate_call_id tool risk", _CALL),
    "tool_call.withheld": _event("gate_call_id tool", _CALL),
    "approval.requested": _event("approval_id action_digest risk votes_required", _APPROVAL),
    "approval.planned": _event("approval_id action_digest change_id rollback_digest", _APPROVAL),
    "approval.voted": _event("approval_id action_digest voter approve", _APPROVAL),
    "approval.granted": _event("approval_id action_digest", _APPROVAL),
    "approval.rejected": _event("approval_id action_digest", _APPROVAL),
    "approval.expired": _event("approval_id action_digest", _APPROVAL),
    "approval.cancelled": _event("approval_id action_digest", _APPROVAL),
    "approval.stale": _event("approval_id action_digest", _APPROVAL),
    "permit.issued": _event("approval_id action_digest", _APPROVAL),
    "permit.consumed": _event("approval_id action_digest", _APPROVAL),
    "key.created": _event("key_id scopes", _KEY),
    "key.revoked": _event("key_id", _KEY),
    "config.loaded": _event("config_digest", "models policy_digest profile version"),
    "log.opened": _event("epoch size head_hash", "torn_bytes version"),
}


# --- checks ------------------------------------------------------------------------------------------------------


def data_problem(name: str, data: Mapping[str, object]) -> str | None:
    """Why `data` does not fit event `name`, or None when it fits. Names fields, never their values."""
    event = EVENTS.get(name)
    if event is None:
        return "the event name is not one of audit record v1"
    for field, value in data.items():
        if field not in event.allowed:
            return f"'{name}' does not have a field '{field[:64]}'"
        if value is None and field not in event.required:
            continue
        fits, wanted = _KINDS[FIELDS[field]]
        if not fits(value):
            return f"field '{field}' of '{name}' must be {wanted}"
    missing = event.required - data.keys()
    if missing:
        return f"'{name}' lacks the field '{min(missing)}'"
    return None


def record_problem(record: Mapping[str, object]) -> str | None:
    """Why a decoded record is not record v1, or None when it is."""
    if frozenset(record) != _ENVELOPE:
        return "the record does not have exactly the envelope fields of record v1"
    if record["schema"] != SCHEMA:
        return f"the schema is not {SCHEMA}"
    for field in ("event_id", "name", "tenant", "principal", "code_version"):
        value = record[field]
        if not _is_text(value) or not value:
            return f"envelope field '{field}' must be non-empty text of at most {MAX_TEXT_CHARS} characters"
    for field in ("request_id", "session"):
        if record[field] is not None and not _is_text(record[field]):
            return f"envelope field '{field}' must be text of at most {MAX_TEXT_CHARS} characters, or null"
    for field in ("sequence", "at_ms"):
        if not _is_count(record[field]):
            return f"envelope field '{field}' must be an integer from 0 to 2**53 - 1"
    if not isinstance(record["data"], dict):
        return "envelope field 'data' must be an object"
    return data_problem(str(record["name"]), cast("dict[str, object]", record["data"]))


def to_object(event: AuditEvent, sequence: int, code_version: str) -> dict[str, JsonValue]:
    """The JSON object of record v1 for `event` at place `sequence`, unchecked."""
    return {
        "schema": SCHEMA,
        "sequence": sequence,
        "event_id": event.event_id,
        "name": event.name,
        "at_ms": event.at_ms,
        "tenant": event.tenant,
        "principal": event.principal,
        "request_id": event.request_id,
        "session": event.session,
        "code_version": code_version,
        "data": dict(event.data),
    }


def validate(event: AuditEvent) -> None:
    """Raise `InvalidRecord` unless `event` fits record v1. Its size is known only once it is encoded."""
    problem = record_problem({**to_object(event, 0, "0")})
    if problem is not None:
        raise InvalidRecord(f"The audit log refuses the event: {problem}.")


def encode(event: AuditEvent, sequence: int, code_version: str) -> bytes:
    """The canonical bytes of a valid `event` at place `sequence`; at most 16 KiB, else `InvalidRecord`."""
    try:
        payload = canonical(to_object(event, sequence, code_version))
    except CanonicalizationError as error:
        raise InvalidRecord(f"The audit log refuses the event '{event.name}': it has no RFC 8785 form.") from error
    if len(payload) > MAX_RECORD_BYTES:
        raise InvalidRecord(f"The audit log refuses the event '{event.name}': larger than {MAX_RECORD_BYTES} bytes.")
    return payload
