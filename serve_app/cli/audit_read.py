"""`gatehouse audit show` and `follow`: look at a log, from its files. What is shown is not checked: see `verify`."""

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, cast

import typer

from deployments.audit.read import NoLog, durable_size, follow_entries, read_records, shown_size
from deployments.audit.record import fields_of
from deployments.ports import JsonValue
from serve_app.cli.offline import fail

_POLL_S = 0.2
_Record = dict[str, JsonValue]

_Log = Annotated[Path, typer.Argument(help="The log's directory, for example .gatehouse/audit, or an export of it.")]
_Name = Annotated[str | None, typer.Option(help="Only events of this name, for example tool_call.held.")]
_RequestId = Annotated[str | None, typer.Option("--request-id", help="Only events of this request.")]
_Tenant = Annotated[str | None, typer.Option(help="Only events of this tenant.")]
_Session = Annotated[str | None, typer.Option(help="Only events of this session.")]
_ChangeId = Annotated[str | None, typer.Option("--change-id", help="Only events of this change.")]
_Json = Annotated[bool, typer.Option("--json", help="The records themselves, a line of JSON each.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("show")(show)
    app.command("follow")(follow)


@dataclass(frozen=True, slots=True)
class _Filter:
    """What a record must have; None asks for nothing."""

    name: str | None
    request_id: str | None
    tenant: str | None
    session: str | None
    change_id: str | None

    @property
    def takes_all(self) -> bool:
        return not any((self.name, self.request_id, self.tenant, self.session, self.change_id))

    def takes(self, record: _Record) -> bool:
        envelope = (("name", self.name), ("request_id", self.request_id), ("tenant", self.tenant))
        if any(wanted is not None and record.get(field) != wanted for field, wanted in envelope):
            return False
        if self.session is not None and record.get("session") != self.session:
            return False
        return self.change_id is None or _fields(record).get("change_id") == self.change_id


def show(
    path: _Log,
    limit: Annotated[int, typer.Option(min=1, help="At most so many records.")] = 50,
    name: _Name = None,
    request_id: _RequestId = None,
    tenant: _Tenant = None,
    session: _Session = None,
    change_id: _ChangeId = None,
    since: Annotated[int, typer.Option(min=0, help="Only records from this index on.")] = 0,
    newest: Annotated[bool, typer.Option("--newest/--oldest", help="Which end to show.")] = True,
    as_json: _Json = False,
) -> None:
    """Print records, oldest first; by default the newest 50."""
    wanted = _Filter(name, request_id, tenant, session, change_id)
    try:
        records = _records(path, wanted, limit, since, newest=newest)
        for record in records:
            typer.echo(json.dumps(record, ensure_ascii=False) if as_json else _line(record))
    except (NoLog, OSError) as error:
        fail(str(error))


def follow(
    path: _Log,
    begin: Annotated[
        int | None, typer.Option("--from", min=0, help="Begin at this index; otherwise at the newest ten.")
    ] = None,
    name: _Name = None,
    request_id: _RequestId = None,
    tenant: _Tenant = None,
    session: _Session = None,
    change_id: _ChangeId = None,
    as_json: _Json = False,
) -> None:
    """Print records as they become durable, until Ctrl-C."""
    wanted = _Filter(name, request_id, tenant, session, change_id)
    try:
        first = max(durable_size(path) - 10, 0) if begin is None else begin
        for record in _decoded(follow_entries(path, first, _pause)):
            if wanted.takes(record):
                typer.echo(json.dumps(record, ensure_ascii=False) if as_json else _line(record))
    except (NoLog, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        return


def _records(path: Path, wanted: _Filter, limit: int, since: int, *, newest: bool) -> Iterable[_Record]:
    """The records to show."""
    size = shown_size(path)
    if newest and wanted.takes_all and size - limit > since:
        # No need to read what is not shown, unless the log is shorter than it should be.
        tail = deque(read_records(path, size - limit), maxlen=limit)
        if tail:
            return tail
    found = (record for record in read_records(path, since) if wanted.takes(record))
    return deque(found, maxlen=limit) if newest else islice(found, limit)


def _pause() -> None:
    time.sleep(_POLL_S)


def _decoded(entries: Iterator[tuple[int, bytes]]) -> Iterator[_Record]:
    for _, payload in entries:
        try:
            found: object = json.loads(payload)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield cast("_Record", found)


def _fields(record: _Record) -> Mapping[str, JsonValue]:
    return fields_of(record) if isinstance(record.get("data"), dict) else {}


def _line(record: _Record) -> str:
    """One record for a reader's eyes; nothing in it reaches a terminal as a control character."""
    at_ms = record.get("at_ms")
    time_text = "-"
    if isinstance(at_ms, int) and 0 <= at_ms < 253_402_300_800_000:  # the last year that a datetime has
        time_text = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    data = " ".join(f"{name}={_short(value)}" for name, value in _fields(record).items() if value is not None)
    texts = [_short(record.get(field) or "-") for field in ("name", "tenant", "principal", "request_id")]
    return "  ".join((f"{_short(record.get('sequence')):>8}", time_text, *texts, data))


def _short(value: JsonValue) -> str:
    """A value for a reader; digests keep their first 12 digits, control characters are escaped."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return f"{text[:12]}..." if len(text) == 64 else text
