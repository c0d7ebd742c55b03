"""The whole of `gatehouse router eval` on a made-up folder."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from serve_app.cli import router_eval
from serve_app.routing.baselines import OBLIGATORY
from serve_app.routing.data import CASES, GSM8K, INCIDENTS, MMLU, MTBENCH, TIERS
from tests.unit.routing.sets import labelled

PAIR = {"weak": "small", "strong": "big"}


def pairs(rows: list, **more: object) -> list[dict]:
    return [
        {"id": row.row_id, "prompt": row.prompt, "weak_ok": int(row.weak_ok), "strong_ok": int(row.strong_ok)}
        | PAIR
        | {name: getattr(row, value) if value in {"task", "weak_answer"} else value for name, value in more.items()}
        for row in rows
    ]


def folder(path: Path, *, incident: str = "") -> Path:
    """Six small sets that agree with their manifest; `incident` is the prompt of the incidents."""
    asked = incident or "Checkout fails in production since 14:30, pods restart with 503 errors: find the root cause."
    sets = {
        MMLU: pairs(labelled(110), task="task", split="dev"),
        GSM8K: pairs(labelled(75, seed=1, answers=True), weak_answer="weak_answer"),
        MTBENCH: [
            {"id": str(i), "prompt": f"Write {i} lines.", **PAIR, "weak_score": 5.0 + i % 3, "strong_score": 8.0}
            for i in range(12)
        ],
        TIERS: [
            {"id": str(i), "prompt": f"What is {i} like?", "tier": "COMPLEX" if i % 2 else "SIMPLE", "category": "c",
             "lang": "en", "split": "train"}
            for i in range(24)
        ],
        INCIDENTS: [
            {"id": str(i), "prompt": f"{asked} Case {i}.", "task": "task_1", "system": "Bank", "agent_score": 0.0}
            for i in range(4)
        ],
        CASES: [
            {"id": "1", "prompt": "hi", "set": "entropy_routing_cases", "label": "low"},
            {"id": "2", "prompt": "Prove it step by step.", "set": "entropy_routing_cases", "label": "high"},
        ],
    }  # fmt: skip
    manifest = []
    for name, rows in sets.items():
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        data = gzip.compress(content, mtime=0)
        (path / f"{name}.jsonl.gz").write_bytes(data)
        entry = dict.fromkeys(("origin", "commit", "path", "copyright", "selection", "use", "note"), "-")
        manifest.append(
            entry
            | {"file": f"{name}.jsonl.gz", "rows": len(rows), "bytes": len(data), "licence": "MIT", "columns": []}
            | {"sha256": hashlib.sha256(data).hexdigest(), "sha256_uncompressed": hashlib.sha256(content).hexdigest()}
        )
    (path / "MANIFEST.json").write_text(json.dumps(manifest), "utf-8")
    return path


def run(*arguments: object) -> Result:
    app = typer.Typer()
    router_eval.register(app)
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    path = tmp_path_factory.mktemp("data")
    # Nothing here is an incident, so that one gate fails for sure.
    return run("--quick", "--data", folder(path, incident="Write a poem."), "--out", path / "out"), path / "out"


def test_a_failed_gate_is_named_and_sets_the_exit_code(evaluated: tuple[Result, Path]) -> None:
    result, out = evaluated
    assert result.exit_code == 1, result.output
    assert "FAIL  incident detector" in result.output
    assert "pass  policy v1 truth table" in result.output
    assert f"report: {out / 'README.md'}" in result.output


def test_the_report_shows_every_baseline_of_every_set(evaluated: tuple[Result, Path]) -> None:
    text = (evaluated[1] / "README.md").read_text("utf-8")
    for name in (MMLU, GSM8K, MTBENCH):
        part = text.split(f"## {name}\n")[1].split("\n## ")[0]
        for line in OBLIGATORY:
            assert f"| {line} |" in part, (name, line)
    assert "**FAIL**" in text
    assert "Quick run" in text
    assert "how does the" not in text  # no prompt


def test_the_figures_are_json_and_the_pictures_are_there(evaluated: tuple[Result, Path]) -> None:
    out = evaluated[1]
    found = json.loads((out / "eval.json").read_text("utf-8"))
    assert found["quick"] is True
    assert {line["name"] for line in found["studies"][MMLU]["table"]["lines"]} >= set(OBLIGATORY)
    assert found["studies"][MMLU]["table"]["description"]["n"] == 110
    assert [gate["passed"] for gate in found["gates"] if "incident" in gate["name"]] == [False]
    for name in (MMLU, GSM8K, MTBENCH):
        picture = out / f"{name.replace('_', '-')}.svg"
        assert picture.read_text("utf-8").startswith("<?xml")
        assert picture.name in (out / "README.md").read_text("utf-8")


@pytest.mark.parametrize("missing", ["data", "snapshot", "policy"])
def test_what_cannot_be_used_leaves_with_two(tmp_path: Path, missing: str) -> None:
    arguments: dict[str, object] = {"data": tmp_path / "none"}
    if missing != "data":
        arguments[missing] = tmp_path / "gone"
    result = run("--quick", *(part for name, value in arguments.items() for part in (f"--{name}", value)))
    assert result.exit_code == 2
    assert "cannot read" in result.output


def test_a_damaged_snapshot_leaves_with_two(tmp_path: Path) -> None:
    (tmp_path / "s.snapshot").write_bytes(b"nothing")
    (tmp_path / "s.snapshot.keys").write_bytes(b"")
    result = run("--snapshot", tmp_path / "s.snapshot", "--data", tmp_path)
    assert result.exit_code == 2
    assert "s.snapshot" in result.output
