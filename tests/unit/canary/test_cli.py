"""The command line: what it prints, how it ends, and what it says of a bad input."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.cli import canary as cli
from tests.unit.canary.conftest import TERMS, Bench


def run(bench: Bench, *words: str, key: str | None = "key", url: str | None = None) -> Any:
    environment = {"GATEHOUSE_URL": url or bench.url, "GATEHOUSE_KUBE_API": bench.url, "GATEHOUSE_KEY": key,
                   "GATEHOUSE_PROMETHEUS": bench.url, "GATEHOUSE_STATE_DIR": "/nonexistent"}  # fmt: skip
    return CliRunner().invoke(cli.app, list(words), env=environment)


def manifest(bench: Bench, folder: Path) -> str:
    order = bench.order()
    spec = {"rayClusterConfig": order.cluster, "serveConfigV2": order.serve_config}
    path = folder / "new.yaml"
    path.write_text(yaml.safe_dump_all([{"kind": "Service"}, {"kind": "RayService", "spec": spec}]))
    return str(path)


def test_a_canary_by_commands(served_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = served_bench
    monkeypatch.setattr("time.sleep", lambda seconds: bench.world.pass_s(60))
    terms = tmp_path / "terms.json"
    terms.write_text(TERMS.model_dump_json())
    started = run(
        bench, "start", "c-1", manifest(bench, tmp_path), "--change-id", "CHG-1", "--terms", str(terms), "--json"
    )
    assert started.exit_code == 0, started.output
    assert json.loads(started.stdout)["phase"] == "warming"
    assert run(bench, "run", "--once").exit_code == 0
    assert run(bench, "hold", "--change-id", "CHG-1", key=None).exit_code == 0  # needs no key: nothing is sent
    held = run(bench, "run", "--once")
    assert (held.exit_code, "held" in held.stdout) == (4, True)
    assert "c-1" in run(bench, "status").stdout
    assert run(bench, "resume", "--change-id", "CHG-1").exit_code == 0
    assert run(bench, "back", "--change-id", "CHG-2", "--reason", "enough", key=None).exit_code == 0
    ended = run(bench, "run")
    assert ended.exit_code == 3, ended.output
    assert run(bench, "hold", "--change-id", "CHG-1").exit_code == 1
    assert [event for event, _ in bench.events()] == ["started", "held", "promoted", "rolled_back", "finished"]


def test_without_a_canary(served_bench: Bench) -> None:
    for words in (["status"], ["run", "--once"], ["hold", "--change-id", "C"], ["back", "--change-id", "C"]):
        done = run(served_bench, *words)
        assert done.exit_code == 1
        assert "no canary" in done.stderr
        assert "Traceback" not in done.output


def test_an_address_that_is_none_is_a_sentence(served_bench: Bench) -> None:
    done = run(served_bench, "status", "--api", "http://a:b")
    assert (done.exit_code, done.stderr) == (1, "gatehouse: http://a:b is no address: no API server can be asked.\n")


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("http://a:b", "key", "http://a:b is no address of a Gatehouse"),
        (None, "Schlüssel", "what GATEHOUSE_KEY holds is no key"),
        (None, None, "no key: set GATEHOUSE_KEY"),
    ],
    ids=["address", "key", "no-key"],
)
def test_what_nothing_can_be_recorded_with_is_said_and_the_way_back_is_open(
    served_bench: Bench, tmp_path: Path, url: str | None, key: str | None, words: str
) -> None:
    order = ("start", "c-1", manifest(served_bench, tmp_path), "--change-id", "CHG-1")
    refused = run(served_bench, *order, key=key, url=url)
    assert (refused.exit_code, words in refused.stderr) == (1, True), refused.output
    assert run(served_bench, *order, key="key\n").exit_code == 0
    assert run(served_bench, "back", "--change-id", "CHG-1", key=key, url=url).exit_code == 0


def test_without_a_key_nothing_begins(served_bench: Bench, tmp_path: Path) -> None:
    done = run(served_bench, "start", "c", manifest(served_bench, tmp_path), "--change-id", "C", key=None)
    assert (done.exit_code, "no key" in done.stderr) == (1, True)
    assert served_bench.world.patches == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("a: [", "is not YAML"),
        ("{kind: RayService, spec: {}}", "exactly one RayService"),
        ("- 1", "exactly one RayService"),
        ("kind: Service", "exactly one RayService"),
    ],
    ids=["missing", "yaml", "empty", "list", "other"],
)
def test_a_file_that_is_no_overlay(served_bench: Bench, tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_text(text)
    done = run(served_bench, "start", "c", str(path), "--change-id", "C")
    assert done.exit_code == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"stages": [{"share": 5, "min_s": 1}]}, "the last one must be 100"),
        ({"stages": [{"share": 50, "min_s": 1}, {"share": 5, "min_s": 1}, {"share": 100, "min_s": 0}]}, "must grow"),
        ({"rules": {"ttft_ms": 2000}}, "must name some of error"),
        ({"nonsense": 1}, "unknown key 'nonsense'"),
    ],
    ids=["end", "order", "metrics", "key"],
)
def test_terms_that_cannot_be_followed(
    served_bench: Bench, tmp_path: Path, terms: dict[str, object], words: str
) -> None:
    path = tmp_path / "terms.json"
    path.write_text(json.dumps(terms))
    done = run(served_bench, "start", "c", manifest(served_bench, tmp_path), "--change-id", "C", "--terms", str(path))
    assert done.exit_code == 2
    assert words in done.stderr


def test_in_cluster_outside_of_one(served_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    done = run(served_bench, "status", "--api", "in-cluster")
    assert (done.exit_code, "this is no pod" in done.stderr) == (1, True)
