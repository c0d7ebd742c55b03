import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from typer.testing import CliRunner

from serve_app.api.usage import Format
from serve_app.cli import usage

SUMS: dict[str, Any] = {
    "requests": 3,
    "input_tokens": 1_200,
    "cached_tokens": 200,
    "output_tokens": 340,
    "reasoning_tokens": 40,
    "cost_micros": 1_500_000,
    "cost": "1.500000",
}
NOTHING: dict[str, Any] = {**dict.fromkeys(SUMS, 0), "cost": "0.000000"}
SAVED = {"saved": "0.750000", "compared_with": "gpt-oss-120b", "requests": 2}
NAMES = ("settled_ms", "grant_id", "request_id")
ROWS = [{"settled_ms": 10 + number, "grant_id": f"grant_{number}", "request_id": "req"} for number in range(5)]


def report(group_by: list[str], bucket: str | None = None, **changes: Any) -> dict[str, Any]:
    group = dict(zip(group_by, ("gpt-oss-20b", None), strict=False))
    start = None if bucket is None else "2026-01-01T00:00:00.000Z"
    return {
        "group_by": group_by,
        "bucket": bucket,
        "currency": "EUR",
        "data": [{**SUMS, "group": group, "start": start, "estimated": {**NOTHING, "requests": 1}}],
        "total": {**SUMS, "estimated": {**NOTHING, "requests": 1}},
        "unpriced_models": ["embedder"],
        "saved_by_routing": SAVED,
        **changes,
    }


class Server:
    """Answers over a transport as Gatehouse would; `cut` breaks an export off after so many bytes."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.report = report([])
        self.cut: int | None = None
        self.status = 200

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == "Bearer gh-test"
        asked = dict(parse_qsl(urlsplit(str(request.url)).query))
        self.asked.append(asked)
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": {"message": "Not yours."}})
        if request.url.path == "/v1/usage":
            return httpx2.Response(200, json=self.report)
        assert request.url.path == "/v1/usage/export"
        return httpx2.Response(200, headers={"x-gatehouse-next": "99"}, stream=Body(self.written(asked), self.cut))

    def written(self, asked: dict[str, str]) -> bytes:
        """The rows after the place that was asked for."""
        after = asked.get("after", "0:")
        rows = [row for row in ROWS if (row["settled_ms"], row["grant_id"]) > place_of(after)]
        if asked["format"] == "jsonl":
            return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        out = io.StringIO()
        csv.writer(out).writerows([NAMES, *([row[name] for name in NAMES] for row in rows)])
        return out.getvalue().encode()


def place_of(text: str) -> tuple[int, str]:
    settled_ms, _, grant_id = text.partition(":")
    return int(settled_ms), grant_id


class Body(httpx2.SyncByteStream):
    """A body in chunks of few bytes."""

    def __init__(self, data: bytes, cut: int | None) -> None:
        self.data, self.cut = data, cut

    def __iter__(self) -> Iterator[bytes]:
        whole = self.data if self.cut is None else self.data[: self.cut]
        for at in range(0, len(whole), 7):
            yield whole[at : at + 7]
        if self.cut is not None:
            raise httpx2.RemoteProtocolError("incomplete")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    client = httpx2.Client

    def connected(**options: Any) -> httpx2.Client:
        return client(**options, transport=httpx2.MockTransport(server.answer))

    monkeypatch.setattr(httpx2, "Client", connected)
    monkeypatch.setenv("GATEHOUSE_KEY", "gh-test")
    return server


def run(*arguments: str) -> Any:
    return CliRunner().invoke(usage.app, [*arguments], env={"COLUMNS": "250"})


def test_totals_are_a_table_with_their_sum_and_what_to_know_of_it(server: Server) -> None:
    server.report = report(["served_model", "team"], "day")
    done = run("--by", "served_model,team", "--bucket", "day", "--tenant", "acme", "--from", "2026-01-01", "--to", "9")
    assert done.exit_code == 0, done.output
    assert server.asked == [
        {"group_by": "served_model,team", "bucket": "day", "tenant": "acme", "from": "2026-01-01", "to": "9"}
    ]
    line, total = [row for row in done.stdout.splitlines() if "1.500000" in row]
    assert line.split()[1:-1:2] == ["2026-01-01T00:00:00.000Z", "gpt-oss-20b", "-", "3", "1200", "200", "340", "40",
                                    "1.500000", "1"]  # fmt: skip
    assert "total" in total
    assert "cost EUR" in done.stdout
    assert "without a price: embedder" in done.stdout
    assert "saved by routing, estimated: 0.750000 EUR against gpt-oss-120b for 2 requests" in done.stdout


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("GATEHOUSE_URL", "http://a:b", "GATEHOUSE_URL is http://a:b, which is no address."),
        ("GATEHOUSE_KEY", "ключ", "GATEHOUSE_KEY is no key of Gatehouse."),
    ],
    ids=["url", "key"],
)
def test_what_the_environment_has_wrong_is_a_sentence(
    server: Server, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    done = run()
    assert (done.exit_code, done.stderr) == (1, f"gatehouse: {words}\n")
    assert server.asked == []


def test_without_groups_there_is_one_line(server: Server) -> None:
    server.report = report([], unpriced_models=[], saved_by_routing=None)
    done = run()
    assert (done.exit_code, server.asked) == (0, [{}])
    assert done.stdout.count("1.500000") == 1
    assert "saved" not in done.stdout
    assert "without a price" not in done.stdout


def test_totals_for_a_spreadsheet_and_for_programs(server: Server) -> None:
    server.report = report(["served_model"])
    server.report["data"][0]["group"]["served_model"] = "=1+1"
    (row,) = csv.DictReader(io.StringIO(run("--by", "served_model", "--csv").stdout))
    assert (row["served_model"], row["cost EUR"], row["input_tokens"]) == ("'=1+1", "1.500000", "1200")
    assert json.loads(run("--by", "served_model", "--json").stdout) == server.report
    assert run("--csv", "--json").exit_code == 2


def test_a_refusal_is_one_sentence(server: Server, tmp_path: Path) -> None:
    server.status = 403
    for arguments in ([], ["export"], ["export", "--out", str(tmp_path / "rows.csv")]):
        done = run(*arguments)
        assert (done.exit_code, done.stderr) == (1, "gatehouse: Not yours.\n")
    assert list(tmp_path.iterdir()) == []


def test_an_export_goes_to_standard_output_and_says_where_the_next_begins(server: Server) -> None:
    done = run("export", "--format", "jsonl", "--after", "11:grant_1", "--tenant", "acme")
    assert [json.loads(line) for line in done.stdout.splitlines()] == ROWS[2:]
    assert done.stderr == "complete; what comes later: --after 99\n"
    assert server.asked == [{"format": "jsonl", "after": "11:grant_1", "tenant": "acme"}]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_export_that_breaks_off_anywhere_is_resumed_without_a_gap(server: Server, tmp_path: Path, form: str) -> None:
    out = tmp_path / "rows"
    whole = server.written({"format": form})
    for cut in range(len(whole) + 1):
        server.cut = cut
        broken = run("export", "--format", form, "--out", str(out))
        assert broken.exit_code == 1
        assert "--resume" in broken.stderr
        assert out.read_bytes() == whole[:cut]
        server.cut = None
        assert run("export", "--format", form, "--out", str(out), "--resume").exit_code == 0
        assert out.read_bytes() == whole
    assert run("export", "--format", form, "--out", str(out), "--resume").exit_code == 0
    assert out.read_bytes() == whole


def test_a_file_that_is_not_there_is_begun(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    assert run("export", "--out", str(out), "--resume").exit_code == 0
    assert out.read_bytes() == server.written({"format": "csv"})
    assert server.asked == [{"format": "csv"}]


@pytest.mark.parametrize(
    "content", [b"hello\n", b"hello", b"a,b,c\n1,2,3\nx,y,z\n", b'{"settled_ms": 1}\n', b"x" * 70_000]
)
def test_a_file_that_is_no_export_is_left_alone(server: Server, tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "other.txt"
    out.write_bytes(content)
    for form in Format.CSV, Format.JSONL:
        done = run("export", "--format", form.value, "--out", str(out), "--resume")
        assert done.exit_code == 1, done.output
        assert out.read_bytes() == content
    assert server.asked == []


@pytest.mark.parametrize(
    "arguments",
    [["--resume"], ["--resume", "--out", "x", "--format", "json"], ["--resume", "--out", "x", "--after", "1"]],
    ids=["no_file", "json", "after"],
)
def test_what_cannot_be_resumed_is_refused(server: Server, arguments: list[str]) -> None:
    assert run("export", *arguments).exit_code == 2
    assert server.asked == []
