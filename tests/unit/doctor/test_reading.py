"""How `gatehouse doctor` reads facts, over files and sockets made here, and its command."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from serve_app.cli import doctor
from serve_app.cli.diagnosis import GIB, ModelState, PortState, Status, VocabularyState
from serve_app.config import load_serve_file
from serve_app.demo.vocabulary import VOCABULARY_FILE

LOCAL = Path(__file__).parents[3] / "configs" / "serve.local.yaml"


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    file = tmp_path / "meminfo"
    file.write_text(
        f"MemTotal:  {24 * 2**20} kB\nMemAvailable:  {16 * 2**20} kB\nHugePages_Total:  0\n", encoding="ascii"
    )
    return file


class Answer(BaseHTTPRequestHandler):
    """Answers /healthz as Gatehouse does: 200, with a request id."""

    headers_sent: ClassVar[dict[str, str]] = {"x-request-id": "req-1"}

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


class AnswerOfAStranger(Answer):
    headers_sent: ClassVar[dict[str, str]] = {}


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def cgroup(folder: Path, limit: str) -> Path:
    folder.mkdir()
    (folder / "memory.max").write_text(limit, encoding="ascii")
    (folder / "memory.current").write_text(str(5 * GIB), encoding="ascii")
    (folder / "memory.stat").write_text(f"anon {2 * GIB}\ninactive_file {3 * GIB}\n", encoding="ascii")
    return folder


def test_memory_without_a_control_group_is_the_kernels(meminfo: Path, tmp_path: Path) -> None:
    assert doctor.available_memory_bytes(meminfo, tmp_path / "absent") == 16 * GIB


def test_a_control_groups_limit_counts_and_its_page_cache_does_not(meminfo: Path, tmp_path: Path) -> None:
    group = cgroup(tmp_path / "group", str(8 * GIB))
    assert doctor.available_memory_bytes(meminfo, group) == 6 * GIB


def test_a_control_group_without_limit_changes_nothing(meminfo: Path, tmp_path: Path) -> None:
    assert doctor.available_memory_bytes(meminfo, cgroup(tmp_path / "group", "max\n")) == 16 * GIB


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("handler", "state"), [(Answer, PortState.GATEHOUSE), (AnswerOfAStranger, PortState.TAKEN)], ids=["ours", "other"]
)
def test_who_holds_a_port_is_told_by_its_answer(handler: type[BaseHTTPRequestHandler], state: PortState) -> None:
    with serving(handler) as port:
        assert doctor.port_state("127.0.0.1", port) is state


@pytest.mark.enable_socket
def test_a_port_that_nobody_holds_is_free() -> None:
    with serving(Answer) as port:
        pass
    assert doctor.port_state("127.0.0.1", port) is PortState.FREE


@pytest.mark.parametrize(
    ("content", "environ", "state"),
    [
        (None, {}, VocabularyState.FETCHABLE),
        (b"other bytes", {}, VocabularyState.DAMAGED),
        (None, {"GATEHOUSE_OFFLINE": "1"}, VocabularyState.OFFLINE),
        (b"other bytes", {"GATEHOUSE_OFFLINE": "1"}, VocabularyState.OFFLINE),
    ],
)
def test_the_vocabulary_is_judged_by_checksum(
    tmp_path: Path, content: bytes | None, environ: dict[str, str], state: VocabularyState
) -> None:
    if content is not None:
        (tmp_path / VOCABULARY_FILE).write_bytes(content)
    assert doctor.vocabulary_state(tmp_path, environ) is state


def test_the_right_bytes_are_found_in_the_cache_first_and_then_in_the_operators_folder(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"foo").hexdigest()
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / VOCABULARY_FILE).write_bytes(b"foo")
    environ = {"TIKTOKEN_ENCODINGS_BASE": str(tmp_path / "given"), "GATEHOUSE_OFFLINE": "1"}
    assert doctor.vocabulary_state(tmp_path / "cache", environ, digest) is VocabularyState.GIVEN
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / VOCABULARY_FILE).write_bytes(b"foo")
    assert doctor.vocabulary_state(tmp_path / "cache", environ, digest) is VocabularyState.CACHED


def test_demonstrations_go_from_missing_over_buildable_to_ready(tmp_path: Path) -> None:
    file = load_serve_file(LOCAL)
    app = file.app.model_copy(update={"state_dir": str(tmp_path / "state")})
    weights = tmp_path / "weights"
    assert set(doctor.model_states(app, weights).values()) == {ModelState.MISSING}
    for name in ("demo-20b", "demo-120b"):
        (weights / name).mkdir(parents=True)
        (weights / name / "model.safetensors").write_bytes(b"")
    assert set(doctor.model_states(app, weights).values()) == {ModelState.BUILDABLE}
    (tmp_path / "state" / "models" / "demo-20b").mkdir(parents=True)
    (tmp_path / "state" / "models" / "demo-20b" / "gatehouse-demo.json").write_bytes(b"{}")
    assert doctor.model_states(app, weights) == {"demo-20b": ModelState.READY, "demo-120b": ModelState.BUILDABLE}


@pytest.mark.enable_socket
def test_the_command_prints_one_json_object_and_its_exit_code_agrees() -> None:
    result = CliRunner().invoke(doctor.app, ["--config", str(LOCAL), "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["ok"] else 1)
    assert report["ok"] == all(check["status"] != "fail" for check in report["checks"])
    assert {"python", "memory", "port", "vocabulary", "weights"} <= {check["name"] for check in report["checks"]}


@pytest.mark.enable_socket
def test_the_table_names_every_check() -> None:
    result = CliRunner().invoke(doctor.app, ["--config", str(LOCAL)])
    assert all(name in result.stdout for name in ("python", "shared memory", "shell parser", "weights"))


def test_a_wrong_configuration_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    wrong = tmp_path / "serve.yaml"
    wrong.write_text(LOCAL.read_text(encoding="utf-8").replace("profile: local", "profil: local"), encoding="utf-8")
    result = CliRunner().invoke(doctor.app, ["--config", str(wrong)])
    assert result.exit_code == 2
    assert "unknown key 'profil'" in result.stderr


def test_neither_ray_nor_an_engine_is_imported() -> None:
    code = "import sys, serve_app.cli.doctor; print(sorted({'ray', 'vllm', 'torch'} & set(sys.modules)))"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_evaluation_suite_that_stops_the_start_is_seen_before(tmp_path: Path) -> None:
    shipped = load_serve_file(LOCAL).app.rollout.eval.suite
    assert [each.status for each in doctor.suite_checks(shipped)] == [Status.OK]
    assert doctor.suite_checks(None) == ()
    bad = tmp_path / "suite.jsonl"
    bad.write_text('{"name": "a"}\n', encoding="utf-8")
    [found] = doctor.suite_checks(str(bad))
    assert found.status is Status.FAIL
    assert f"{bad}:1: " in found.seen
