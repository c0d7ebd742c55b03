"""`gatehouse policy replay`: what a bundle would have decided on the calls of an audit log, from its files."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from deployments.audit.read import NoLog, read_records
from deployments.audit.record import fields_of
from deployments.audit.vault import BodyReader, BodyUnreadable, open_reader
from deployments.audit.vault_keys import VaultRefused
from deployments.gate.bundle import bundle_path
from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError
from deployments.gate.policy import read_policy
from deployments.gate.replay import PastCall, Replay, as_json, ordered, past_call, recorded_shadow, replay
from deployments.gate.shell.reader import ShellReader
from deployments.ports import BodyField, JsonValue
from serve_app.cli.offline import fail

PARSER_TIMEOUT_S = 5.0
_NOT_KEPT, _MASKED, _OTHER = "arguments not kept", "arguments masked", "given arguments are not the recorded ones"


class _Given(BaseModel):
    """Arguments of a recorded call that somebody else has kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    gate_call_id: str
    arguments: str


def register(app: typer.Typer) -> None:
    """Add the command to `gatehouse policy`."""
    app.command("replay")(replay_log)


def replay_log(
    log: Annotated[Path, typer.Argument(help="The log's directory, for example .gatehouse/audit, or an export of it.")],
    bundle: Annotated[
        str | None, typer.Option("--bundle", help="The bundle to judge by; without it, what shadow bundles said.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only calls from then on: an ISO 8601 date or time, UTC.")] = None,
    until: Annotated[str | None, typer.Option(help="Only calls before then.")] = None,
    calls: Annotated[
        Path | None,
        typer.Option("--calls", help='JSON lines {"gate_call_id", "arguments"}: what the log has not kept.'),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="Key directory of the bodies; by default audit-keys beside the log.")
    ] = None,
    vault_key: Annotated[
        Path | None, typer.Option("--vault-key", help="The vault key, where it is not in the key directory.")
    ] = None,
    allow: Annotated[bool, typer.Option("--allow", help="Looser changes are meant: exit 0.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Say what a bundle would have decided on the calls of an audit log.

    The log keeps the words of a call only where `audit.bodies` says so; of the others it can only be said how many
    they are. Secrets are masked in what is kept, and a masked call is not judged. What the log says is not checked
    here: see `gatehouse audit verify`.

    Exit status: 0 no call would come out milder, 1 some would, 2 nothing to look at.
    """
    begin, end = _time(since), _time(until)
    given = {} if calls is None else _given(calls)
    reader = _reader(log, keys, vault_key)
    try:
        past = _past(log, begin, end, given, reader)
        if bundle is None:
            reports = recorded_shadow(past)
        else:
            classifier = Classifier(read_policy(bundle_path(bundle)), ShellReader(PARSER_TIMEOUT_S))
            reports = {classifier.policy_digest: replay(classifier, past)}
    except (NoLog, OSError) as error:
        fail(str(error))
    except BundleError as error:
        fail(f"the bundle is refused: {error}.")
    if json_:
        typer.echo(json.dumps({"reports": [as_json(report) for report in reports.values()]}))
    else:
        for report in reports.values():
            _tell(report)
        if not reports:
            typer.echo("no calls on record in this time")
    looser = any(report.looser for report in reports.values())
    raise typer.Exit(1 if looser and not allow else 0)


def _past(
    log: Path, begin: int | None, end: int | None, given: Mapping[str, str], reader: BodyReader | None
) -> Iterator[PastCall]:
    """Every call on record: its proposal and its class stand in two records, the proposal first."""
    proposals: dict[str, Mapping[str, JsonValue]] = {}
    for record in read_records(log):
        name, at_ms = record.get("name"), record.get("at_ms")
        if name not in {"tool_call.proposed", "tool_call.classified"} or not isinstance(record.get("data"), dict):
            continue
        fields = fields_of(record)
        call_id = str(fields.get("gate_call_id"))
        if name == "tool_call.proposed":
            proposals[call_id] = record
            continue
        proposal = proposals.pop(call_id, None)
        if not isinstance(at_ms, int) or (begin is not None and at_ms < begin) or (end is not None and at_ms >= end):
            continue
        proposed = {} if proposal is None else fields_of(proposal)
        arguments, why_not = _arguments(proposal, given.get(call_id), reader)
        found = past_call(record, fields, proposed.get("recovered") is True, arguments, why_not)
        if found is not None:
            yield found


def _arguments(
    proposal: Mapping[str, JsonValue] | None, given: str | None, reader: BodyReader | None
) -> tuple[str | None, str]:
    """The canonical arguments of a call, or why there are none. Given ones must fit the record's commitment."""
    if proposal is None:
        return given, _NOT_KEPT
    record = dict(proposal)
    if given is not None:
        return (given, "") if _fits(record, given, reader) else (None, _OTHER)
    body = cast("dict[str, JsonValue]", record["data"]).get(f"{BodyField.ARGUMENTS}_body")
    if reader is None or not isinstance(body, dict):
        return None, _NOT_KEPT
    if body.get("masked") != 0:
        return None, _MASKED
    try:
        return reader.open_body(record, BodyField.ARGUMENTS).decode("utf-8"), ""
    except BodyUnreadable as error:
        return None, f"arguments {error.state.value}"
    except UnicodeDecodeError:
        return None, _NOT_KEPT


def _fits(record: dict[str, JsonValue], given: str, reader: BodyReader | None) -> bool:
    """False only when the log is committed to other words; without its keys nobody can say."""
    try:
        return reader is None or reader.check_body(record, BodyField.ARGUMENTS, given.encode("utf-8"))
    except (BodyUnreadable, UnicodeEncodeError):
        return True


def _reader(log: Path, keys: Path | None, vault_key: Path | None) -> BodyReader | None:
    """A reader of the bodies; None where no key directory is, unless one was asked for."""
    directory = keys or log.resolve().parent / "audit-keys"
    if keys is None and vault_key is None and not directory.is_dir():
        return None
    try:
        return open_reader(log, directory, None if vault_key is None else str(vault_key))
    except VaultRefused as error:
        if keys is None and vault_key is None:
            return None
        fail(str(error))
    except OSError as error:
        if keys is None and vault_key is None:
            return None
        fail(f"{error.filename or directory} cannot be read: {error.strerror}.")


def _given(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = _Given.model_validate_json(line)
                    if row.gate_call_id in found:
                        fail(f"{path}, line {number}: the call is given twice.")
                    found[row.gate_call_id] = row.arguments
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}.")
    except ValidationError:
        fail(f'{path}: every line must be a JSON object {{"gate_call_id", "arguments"}}, both of them text.')
    return found


def _time(text: str | None) -> int | None:
    """Milliseconds since the epoch; a date is its beginning, and a time without a zone is UTC."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        fail(f"'{text}' is no ISO 8601 date or time.")
    return int((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp() * 1000)


def _tell(report: Replay) -> None:
    typer.echo(f"policy digest {report.policy_digest or '(no shadow bundle)'}")
    skipped = "; ".join(f"{count} {why}" for why, count in Counter(report.skipped).most_common())
    typer.echo(f"{report.total} calls, {report.judged} judged{f' ({skipped})' if skipped else ''}")
    typer.echo(f"{report.same} the same, {report.looser} looser, {report.stricter} stricter")
    said = as_json(report)
    ways = [cast("dict[str, str]", change)["direction"] for change in cast("list[JsonValue]", said["changes"])]
    for way, ((before, after), group) in zip(ways, ordered(report), strict=True):
        examples = ", ".join(map(str, group.examples))
        change = f"{before[0].value} {before[1].value} -> {after[0].value} {after[1].value}"
        typer.echo(f"{way:>8}  {change}: {group.count} (records {examples})")
