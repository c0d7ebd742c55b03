"""Audit record v1 as a document and as a JSON Schema, both written from the tables in `record.py`."""

import json
from collections.abc import Iterator

from deployments.audit.record import (
    BODY,
    ENVELOPE,
    EVENTS,
    FIELDS,
    HOISTED,
    KINDS,
    MAX_INTEGER,
    MAX_LIST_ITEMS,
    MAX_RECORD_BYTES,
    MAX_TEXT_CHARS,
    SCHEMA,
    EventSchema,
)
from deployments.ports import JsonValue

_Schema = dict[str, JsonValue]

# --- the document ------------------------------------------------------------------------------------------------

_INTRODUCTION = f"""\
<!-- Written by `gatehouse schema audit` from deployments/audit/record.py. Do not edit: a test compares the two. -->
# Audit record v1

What the audit log may say, and what each word of it means. The same as a JSON Schema:
`configs/audit-record.schema.json`.

- A record is one JSON object in its RFC 8785 form (UTF-8, sorted keys, no white space), at most {MAX_RECORD_BYTES:,}
  bytes. Its leaf hash is `SHA-256(0x00 || bytes)` (RFC 6962).
- The schema is closed: an unknown event, an unknown field or a value of another kind is refused before it is written.
- Event names and fields are added, never removed, renamed or given another meaning. A field means the same in every
  event that carries it.
- Nothing that was said is in a record. `*_commit` is `SHA-256(salt || digest)`, hex, where `digest` is the SHA-256 of
  what was said. The salt of 32 bytes is drawn from the tenant's data key, event id and field (HMAC-SHA-256); without
  that key a commitment says nothing. `*_body` names the encrypted text itself, where the tenant's settings keep it.
  Destroying the key makes both unreadable and leaves every proof valid.
"""
_ENVELOPE_NOTES = f"""\
`request_id`, `session`, `change_id` and `policy_digest` may be null; everything else is always there. Records that
were written before the envelope had `{HOISTED[0]}` and `{HOISTED[1]}` carry them in `data` instead; readers take them
from either place (`fields_of` in `deployments/audit/record.py`).
"""
_EVENTS_NOTES = """\
An optional field may be absent or null. Every event may carry `change_id` and `policy_digest`, in the envelope; those
marked there are required.
"""


def markdown() -> str:
    """The text of `docs/audit-schema.md`."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    yield "## Envelope"
    yield ""
    yield from _table(("field", "meaning"), ((f"`{name}`", says) for name, says in ENVELOPE.items()))
    yield ""
    yield _ENVELOPE_NOTES
    yield "## Kinds of values"
    yield ""
    yield from _table(("kind", "values"), ((f"`{name}`", wanted) for name, (_, wanted) in KINDS.items()))
    yield ""
    yield "A `body` has exactly these parts:"
    yield ""
    yield from _table(("part", "kind", "meaning"), ((f"`{name}`", *part) for name, part in BODY.items()))
    yield ""
    yield "## Events"
    yield ""
    yield _EVENTS_NOTES
    listed = ((f"[`{name}`](#{_anchor(name)})", each.says) for name, each in EVENTS.items())
    yield from _table(("event", "recorded by, and when"), listed)
    for name, event in EVENTS.items():
        yield ""
        yield f"### {name}"
        yield ""
        yield f"Recorded by {event.says}."
        yield ""
        yield from _fields(event)


def _fields(event: EventSchema) -> Iterator[str]:
    shown = [field for field in _sorted(event) if field not in HOISTED or field in event.required]
    if not shown:
        yield "No fields of its own."
        return
    rows: list[tuple[str, str, str, str]] = []
    for field in shown:
        need = "required" if field in event.required else ""
        place = " (envelope)" if field in HOISTED else ""
        words = event.words.get(field)
        means = FIELDS[field].means
        if words is not None:
            means += ": " + ", ".join(f"`{word}`" for word in sorted(words))
        rows.append((f"`{field}`{place}", FIELDS[field].kind, need, means))
    yield from _table(("field", "kind", "", "meaning"), rows)


def _sorted(event: EventSchema) -> list[str]:
    """Required fields first, each part by name."""
    return [*sorted(event.required), *sorted(event.allowed - event.required)]


def _table(head: tuple[str, ...], rows: "Iterator[tuple[str, ...]] | list[tuple[str, str, str, str]]") -> Iterator[str]:
    yield _row(head)
    yield _row(("---",) * len(head))
    for row in rows:
        yield _row(row)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('2**53', '2^53').replace('|', chr(92) + '|') for cell in cells)} |"


def _anchor(name: str) -> str:
    """The anchor that Markdown renderers give the heading `name`."""
    return name.replace(".", "")


# --- the JSON Schema ---------------------------------------------------------------------------------------------

_TEXT: _Schema = {"type": "string", "maxLength": MAX_TEXT_CHARS}
_SHA256: _Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT: _Schema = {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER}
_TYPES: dict[str, _Schema] = {
    "text": _TEXT,
    "texts": {"type": "array", "maxItems": MAX_LIST_ITEMS, "items": _TEXT},
    "sha256": _SHA256,
    "count": _COUNT,
    "integer": {"type": "integer", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER},
    "number": {"type": "number", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER},
    "flag": {"type": "boolean"},
    "body": {
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{kind}"} for name, (kind, _) in BODY.items()},
        "required": [*BODY],
        "additionalProperties": False,
    },
}
_NULL: _Schema = {"type": "null"}


def json_schema() -> _Schema:
    """A JSON Schema (2020-12) of a record, in either envelope.

    What it cannot say: that the bytes are RFC 8785, that they are few enough, and that the sequence is the place.
    """
    moved: list[JsonValue] = [*HOISTED]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Gatehouse audit record v1",
        "type": "object",
        "properties": {name: {**_envelope(name), "description": says} for name, says in ENVELOPE.items()},
        "required": [name for name in ENVELOPE if name not in HOISTED],
        "additionalProperties": False,
        "dependentRequired": {"change_id": ["policy_digest"], "policy_digest": ["change_id"]},
        "if": {"required": moved},
        "then": {"properties": {"data": {"properties": dict.fromkeys(HOISTED, False)}}},
        "allOf": [
            {"if": {"properties": {"name": {"const": name}}}, "then": _event(event)} for name, event in EVENTS.items()
        ],
        "$defs": {**_TYPES},
    }


def _envelope(name: str) -> _Schema:
    match name:
        case "schema":
            return {"const": SCHEMA}
        case "name":
            return {"enum": [*EVENTS]}
        case "sequence" | "at_ms":
            return _COUNT
        case "request_id" | "session" | "change_id":
            return {"anyOf": [_TEXT, _NULL]}
        case "policy_digest":
            return {"anyOf": [_SHA256, _NULL]}
        case "data":
            return {"type": "object"}
        case _:
            return {**_TEXT, "minLength": 1}


def _event(event: EventSchema) -> _Schema:
    """What a record of this event is, beyond its envelope."""
    properties: _Schema = {}
    for field in _sorted(event):
        value: _Schema = {"$ref": f"#/$defs/{FIELDS[field].kind}"}
        words = event.words.get(field)
        if words is not None:
            value = {"enum": [*sorted(words)]}
        properties[field] = value if field in event.required else {"anyOf": [value, _NULL]}
    data: _Schema = {
        "properties": properties,
        "required": [*sorted(event.required - frozenset(HOISTED))],
        "additionalProperties": False,
    }
    anywhere: list[JsonValue] = [
        {
            "anyOf": [
                {"properties": {field: {"type": "string"}}, "required": [field]},
                {"properties": {"data": {"required": [field]}}},
            ]
        }
        for field in HOISTED
        if field in event.required
    ]
    return {"properties": {"data": data}, **({"allOf": anywhere} if anywhere else {})}


def json_schema_text() -> str:
    """The text of `configs/audit-record.schema.json`."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"
