"""The commands around live traffic, where there is something to refuse."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from serve_app.cli.router import app
from serve_app.routing.learned_traffic import learn
from serve_app.routing.traffic import write_traffic
from tests.unit.routing.traffic_rows import turns

RUNNER = CliRunner()
LEARNED = learn(turns(600, seed=1), "acme")


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    file = tmp_path / "own.snapshot"
    file.write_bytes(LEARNED.snapshot)
    (tmp_path / "own.snapshot.keys").write_bytes(LEARNED.keys)
    return file


def run(*arguments: object) -> Result:
    return RUNNER.invoke(app, [str(each) for each in arguments])


def rows_in(folder: Path, exploration: float = 0.1) -> Path:
    file = folder / "rows.jsonl"
    write_traffic(turns(600, 2, exploration=exploration), file)
    return file


def test_worth_is_a_document_or_lines(tmp_path: Path, snapshot: Path):
    rows = rows_in(tmp_path)
    document = json.loads(run("worth", snapshot, rows, "--json").output)
    assert [each["name"] for each in document["values"]][:2] == ["candidate", "active"]
    lines = run("worth", snapshot, rows).output
    assert "600 judged turns" in lines
    assert "candidate over active" in lines


def test_worth_without_exploration_is_refused_and_says_why(tmp_path: Path, snapshot: Path):
    refused = run("worth", snapshot, rows_in(tmp_path, exploration=0.0))
    assert refused.exit_code == 1
    assert "REFUSED: 0 judged turns of 120b" in refused.output
    assert "right" not in refused.output  # no figure beside a refusal


def test_clipped_weights_are_told(tmp_path: Path, snapshot: Path):
    rare = tmp_path / "rare.jsonl"
    write_traffic(turns(6_000, 3, exploration=0.015), rare)
    assert "of the weights were clipped" in run("worth", snapshot, rare).output


def test_training_takes_the_oldest_turns_and_two_heads_only(tmp_path: Path):
    rows, out = rows_in(tmp_path), tmp_path / "new.snapshot"
    assert run("train", rows, "--out", out, "--labels", 500).exit_code == 0
    report = json.loads((tmp_path / "new.snapshot.report.json").read_text())
    assert (report["rows"]["learned_from"], report["to_ms"]) == (500, 500)
    assert report["from"] == "traffic"
    refused = run("train", rows, "--out", out, "--heads", "difficulty")
    assert (refused.exit_code, "--heads two" in refused.output) == (2, True)


def test_what_is_not_there_is_one_sentence(tmp_path: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    nothing = tmp_path / "nothing"
    for command in (
        ("export", "rows.jsonl", "--tenant", "acme"),
        ("export", "rows.jsonl", "--tenant", "acme", "--store", nothing),
        ("export", "rows.jsonl", "--tenant", "acme", "--config", nothing),
        ("worth", snapshot, nothing),
        ("worth", nothing, nothing),
        ("release", snapshot, "--to", "shadow", "--rows", nothing),
        ("release", snapshot, "--to", "slice"),
        ("release", snapshot, "--to", "everywhere"),
        ("promote", snapshot, nothing),
    ):
        refused = run(*command)
        assert (refused.exit_code, refused.output.count("\n")) == (2, 1), (command, refused.output)
        assert refused.output.startswith("gatehouse: ")
    assert not (tmp_path / "rows.jsonl").exists()
    assert not (tmp_path / ".gatehouse").exists()  # looking for a store makes none


def test_a_store_that_is_none_is_not_read(tmp_path: Path):
    (tmp_path / "router.db").write_text("this is no database, and long enough to be taken for one " * 40)
    refused = run("export", tmp_path / "rows.jsonl", "--tenant", "acme", "--store", tmp_path / "router.db")
    assert (refused.exit_code, refused.output) == (2, "gatehouse: the router's store does not answer, or is none.\n")


def test_nothing_to_take_back_and_nothing_to_list(tmp_path: Path):
    refused = run("rollback", "--folder", tmp_path / "r")
    assert (refused.exit_code, "nothing was ever released" in refused.output) == (1, True)
    assert run("releases", "--folder", tmp_path / "r").output == ""
