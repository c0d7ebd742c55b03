"""`gatehouse usage`: what was used and what it cost, as totals and as rows."""

import csv
import json
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final
from urllib.parse import urlencode

import httpx2
import typer

from serve_app.api.usage import NEXT_HEADER, Format, cell
from serve_app.cli.client import ApiClient, fail
from serve_app.cli.tables import show_rows

app = typer.Typer(help="What was used and what it cost.", invoke_without_command=True)

_PATH: Final = "/v1/usage"
_SUMS: Final = ("requests", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cost")
_TAIL: Final = 64 * 1024  # no row is longer

_Tenant = Annotated[str | None, typer.Option(help="Of this tenant; with scope `admin` any, and all by default.")]
_From = Annotated[str | None, typer.Option("--from", help="First moment: a date, RFC 3339, or epoch seconds.")]
_To = Annotated[str | None, typer.Option("--to", help="The moment at which it ends.")]


class Exports(ApiClient):
    """The client for replies that are longer than memory."""

    @contextmanager
    def opened(self, path: str, params: Mapping[str, str]) -> Generator[httpx2.Response]:
        """A reply whose body is still to come; an error ends the process with one sentence."""
        try:
            with self._http.stream("GET", path, params=params) as reply:
                if reply.status_code >= 400:
                    reply.read()
                    fail(_reason(reply))
                yield reply
        except httpx2.TransportError as error:
            fail(f"the export from {self.url} broke off ({type(error).__name__}). With --resume it goes on.")


@app.callback()
def usage(
    context: typer.Context,
    by: Annotated[
        str, typer.Option(help="tenant, team, key, model, served_model, tier, reason, outcome; with commas.")
    ] = "",
    bucket: Annotated[str | None, typer.Option(help="day or hour, in UTC.")] = None,
    tenant: _Tenant = None,
    since: _From = None,
    until: _To = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="For a spreadsheet.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The reply as it is.")] = False,
) -> None:
    """Show totals; `gatehouse usage export` has every single row."""
    if context.invoked_subcommand is not None:
        return
    if as_csv and as_json:
        fail("--csv or --json, not both.", 2)
    asked = _given(group_by=by or None, bucket=bucket, tenant=tenant, **{"from": since, "to": until})
    report: dict[str, Any] = ApiClient().request("GET", f"{_PATH}?{urlencode(asked)}")
    if as_json:
        typer.echo(json.dumps(report))
        return
    names, sums = _columns(report), (*_SUMS[:-1], f"cost {report['currency']}", "estimated")
    lines = [[*_group(line), *_sums(line)] for line in report["data"]]
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\r\n")
        writer.writerow([*names, *sums])
        writer.writerows([cell(each) for each in line] for line in lines)
        return
    total = ["total", *[""] * (len(names) - 1), *_sums(report["total"])]
    columns = [*(names or [""]), *(each.removesuffix("_tokens") for each in sums)]
    show_rows(columns, [*(lines if names else []), total])
    _notes(report)


@app.command()
def export(
    form: Annotated[Format, typer.Option("--format", help="How rows are written.")] = Format.CSV,
    tenant: _Tenant = None,
    since: _From = None,
    until: _To = None,
    after: Annotated[str | None, typer.Option(help="Only what was settled after this place.")] = None,
    out: Annotated[Path | None, typer.Option(help="A file; default: standard output.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the file of --out ends (csv, jsonl), however it ended.")
    ] = False,
) -> None:
    """Write one row per settlement. What to say for `--after` the next time is printed at the end."""
    if resume and (out is None or form is Format.JSON or after is not None):
        fail("--resume goes with --out and --format csv or jsonl, and without --after.", 2)
    place = last_place(out, form) if resume and out is not None and out.exists() else None
    asked = _given(format=form.value, tenant=tenant, after=place or after, **{"from": since, "to": until})
    with Exports().opened(f"{_PATH}/export", asked) as reply:
        following = reply.headers[NEXT_HEADER]
        if out is None:
            _copy(reply, sys.stdout.buffer, skips_header=False)
        else:
            with out.open("ab" if resume else "wb") as file:
                _copy(reply, file, skips_header=place is not None and form is Format.CSV)
    typer.echo(f"complete; what comes later: --after {following}", err=True)


def last_place(path: Path, form: Format) -> str | None:
    """The place of a file's last whole row, which is made its end; None when there is no row in it.

    Ends the process for a file that is none of ours.
    """
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        begin = max(0, size - _TAIL)
        file.seek(begin)
        whole, _, rest = file.read().rpartition(b"\n")
        if not whole and (begin or not _begins(rest, form)):
            fail(f"{path} is no export in the form {form.value}.")
        line = whole.rpartition(b"\n")[2]
        place = _place(line, form) if line.strip() else None
        if place == "":
            fail(f"{path} is no export in the form {form.value}.")
        file.truncate(begin + len(whole) + 1 if whole and place is not None else 0)
    return place


def _begins(rest: bytes, form: Format) -> bool:
    """True when an export of this form may begin like this."""
    first = b'{"settled_ms":' if form is Format.JSONL else b"settled_ms,grant_id,"
    return first.startswith(rest) or rest.startswith(first)


def _place(line: bytes, form: Format) -> str | None:
    """The place of a row, None for the header, empty for what is neither."""
    try:
        if form is Format.JSONL:
            row = json.loads(line)
            return f"{int(row['settled_ms'])}:{row['grant_id']}"
        (cells,) = csv.reader([line.decode()])
        if cells[:2] == ["settled_ms", "grant_id"]:
            return None
        return f"{int(cells[0])}:{cells[1]}"
    except (ValueError, KeyError, IndexError, TypeError):
        return ""


def _copy(reply: httpx2.Response, file: BinaryIO, *, skips_header: bool) -> None:
    head = b"" if skips_header else None
    for chunk in reply.iter_bytes():
        if head is not None:
            head += chunk
            if b"\n" not in head:
                continue
            chunk, head = head.partition(b"\n")[2], None
        file.write(chunk)
    file.flush()


def _columns(report: Mapping[str, Any]) -> list[str]:
    return [*(["start"] if report["bucket"] else []), *report["group_by"]]


def _group(line: Mapping[str, Any]) -> list[str]:
    """The bucket, if there is one, and the values of the group."""
    return [*([] if line["start"] is None else [line["start"]]), *(value or "-" for value in line["group"].values())]


def _sums(line: Mapping[str, Any]) -> list[str]:
    """What was used, and how many of the requests are estimated."""
    return [*(str(line[name]) for name in _SUMS), str(line["estimated"]["requests"])]


def _notes(report: Mapping[str, Any]) -> None:
    if report["unpriced_models"]:
        typer.echo(f"without a price: {', '.join(report['unpriced_models'])}")
    saving = report["saved_by_routing"]
    if saving is not None:
        typer.echo(
            f"saved by routing, estimated: {saving['saved']} {report['currency']} against {saving['compared_with']} "
            f"for {saving['requests']} requests"
        )


def _given(**options: str | None) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _reason(reply: httpx2.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {reply.status_code}."
