"""What becomes of a Ray that does not come up, without one."""

from pathlib import Path
from typing import Any

import pytest
import ray
import typer
from ray import _raylet, serve
from ray._private import services

from deployments import _local
from serve_app.cli import up

NODE = "ab" * 28
LATE = (
    "[2026-11-22 15:11:33,101 C 25080 25080] (raylet) node_manager.cc:3576:  An unexpected system state has occurred. "
    "You have likely discovered a bug in Ray. Please report this issue, and we'll work with you to fix it. "
    "Check failed: statussetor3576.has_value() Timed out waiting for file /tmp/x/metrics_agent_port_ab\n"
    "*** StackTrace Information ***\n"
)
FAILED = (
    "[2026-11-22 18:19:42,100 I 13952 14024] (raylet) agent_manager.cc:83: Agent process exited, exit code 3.\n"
    "[2026-11-22 18:19:42,166 E 13952 14024] (raylet) agent_manager.cc:87: The raylet exited immediately because one "
    "Ray agent failed, agent_name = dashboard_agent.\n"
)


class Process:
    """A process of Ray's: `status` is None while it runs."""

    def __init__(self, status: int | None = None) -> None:
        self.returncode = status

    def poll(self) -> int | None:
        return self.returncode


class Info:
    def __init__(self, process: Process) -> None:
        self.process = process


@pytest.fixture(autouse=True)
def _no_former_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_local, "_begun", _local._Begun())
    monkeypatch.setattr(_local, "_without_reporter", lambda: None)


def raylet_as_ray_starts_it(
    redis_address: str, node_id: str, session_dir: str, log_dir: str, session_name: str, metrics_agent_port: int,
    metrics_export_port: int, dashboard_agent_listen_port: int, runtime_env_agent_port: int,
) -> dict[str, object]:  # fmt: skip
    ports = (metrics_agent_port, metrics_export_port, dashboard_agent_listen_port, runtime_env_agent_port)
    process = services.start_ray_process(["raylet", node_id], "raylet", False)
    return {"ports": ports, "process": process, "names": (redis_address, session_dir, log_dir, session_name)}


class Machine:
    """Ray's own start, as far as `start` takes part in it. The raylet has `status`; the node is there or not."""

    def __init__(self, folder: Path, status: int | None, *, registered: bool) -> None:
        self.folder, self.process, self.registered = folder, Process(status), registered
        self.raylet: dict[str, Any] = {}
        self.asked: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services, "start_ray_process", lambda *arguments: Info(self.process))
        monkeypatch.setattr(services, "start_raylet", raylet_as_ray_starts_it)
        monkeypatch.setattr(services, "get_node", self.get_node)
        monkeypatch.setattr(_raylet, "GcsClient", lambda **options: self)
        monkeypatch.setattr(ray, "init", self.init)
        monkeypatch.setattr(serve, "start", lambda **options: None)

    def init(self, **options: object) -> None:
        (self.folder / "logs").mkdir(exist_ok=True)
        session, logs = str(self.folder), str(self.folder / "logs")
        self.raylet = dict(services.start_raylet("", NODE, session, logs, "session_1", 0, 0, 0, 0))
        services.get_node("127.0.0.1:1", NODE)

    def get_node(self, gcs_address: str, node_id: str) -> dict[str, str]:
        self.asked.append(f"{gcs_address} {node_id}")
        return {}

    def get_all_node_info(self, **options: object) -> dict[ray.NodeID, None]:
        return {ray.NodeID.from_hex(NODE): None} if self.registered else {}


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        del options
        raise Exception("The current node timed out during startup.\nThis could be anything.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match=r"^The current node timed out during startup\.$"):
        _local.start("127.0.0.1", 1, 1)


def test_stopping_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(serve, "shutdown", lambda: called.append("serve"))
    monkeypatch.setattr(ray, "shutdown", lambda: called.append("ray"))
    assert _local.stop() is False
    assert called == ["ray"]


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (LATE, "metrics_agent_port_ab (an agent of Ray was not up in time: the machine may be too busy)"),
        (FAILED, "Ray agent failed, agent_name = dashboard_agent"),
        ("", "ended with status 1: it said nothing"),
    ],
    ids=["late", "failed", "silent"],
)
def test_a_node_that_ends_while_it_comes_up_says_why(
    log: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "raylet.err").write_text(log)
    machine = Machine(tmp_path, status=1, registered=False)
    machine.install(monkeypatch)
    with pytest.raises(_local.NodeEnded) as caught:
        _local.start("127.0.0.1", 1, 1)
    assert str(caught.value).endswith(said)
    assert "unexpected system state" not in str(caught.value)
    assert machine.asked == []
    assert (_local.logs(), _local.session()) == (tmp_path / "logs", "session_1")


def test_a_node_that_ends_once_it_is_registered_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(tmp_path, status=0, registered=True).install(monkeypatch)
    with pytest.raises(_local.NodeEnded, match="raylet ended with status 0"):
        _local.start("127.0.0.1", 1, 1)


def test_a_node_is_waited_for_as_long_as_the_caller_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, status=None, registered=False)
    machine.install(monkeypatch)
    monkeypatch.setattr(_local, "_LOOK_S", 0.0)
    rounds = iter([None, None, "late"])

    def go_on() -> None:
        reason = next(rounds)
        if reason:
            raise _local.GivenUp(reason)

    with pytest.raises(_local.GivenUp, match="^late$"):
        _local.start("127.0.0.1", 1, 1, go_on)
    assert next(rounds, "none left") == "none left"
    assert _local.ended() is None


def test_agents_with_ports_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, status=None, registered=True)
    machine.install(monkeypatch)
    _local.start("127.0.0.1", 1, 1, agent_ports=(11, 12, 13, 14))
    assert machine.raylet["ports"] == (11, 12, 13, 14)
    written = {each.name: each.read_text() for each in tmp_path.iterdir() if each.is_file()}
    assert written == {
        f"metrics_agent_port_{NODE}": "11",
        f"metrics_export_port_{NODE}": "12",
        f"dashboard_agent_listen_port_{NODE}": "13",
        f"runtime_env_agent_port_{NODE}": "14",
    }
    assert machine.asked == [f"127.0.0.1:1 {NODE}"]


def test_without_ports_ray_finds_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, status=None, registered=True)
    machine.install(monkeypatch)
    _local.start("127.0.0.1", 1, 1)
    assert machine.raylet["ports"] == (0, 0, 0, 0)
    assert [each.name for each in tmp_path.iterdir()] == ["logs"]


def test_a_node_that_ends_later_in_the_start_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, status=None, registered=True)
    machine.install(monkeypatch)

    def start(**options: object) -> None:
        del options
        machine.process.returncode = 1
        raise Exception("The actor died unexpectedly before finishing this task.")

    monkeypatch.setattr(serve, "start", start)
    with pytest.raises(RuntimeError, match="^Ray's raylet ended with status 1: it said nothing$"):
        _local.start("127.0.0.1", 1, 1)


def test_ray_keeps_nothing_of_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, status=1, registered=False)
    machine.install(monkeypatch)
    before = (services.start_ray_process, services.start_raylet, services.get_node)
    with pytest.raises(_local.NodeEnded):
        _local.start("127.0.0.1", 1, 1)
    assert (services.start_ray_process, services.start_raylet, services.get_node) == before


class Starts:
    """`start` ends `times` times with a node that does not survive."""

    def __init__(self, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.ports, self.stopped = times, list[list[int]](), 0
        monkeypatch.setattr(_local, "start", self.start)
        monkeypatch.setattr(up, "_stop_ray", self.stop)

    def start(self, host: str, port: int, cpus: int, go_on: object, agent_ports: list[int]) -> None:
        self.ports.append(agent_ports)
        if self.left:
            self.left -= 1
            raise _local.NodeEnded("Ray's raylet ended with status 1: it said why")

    def stop(self) -> None:
        self.stopped += 1


def test_a_node_that_does_not_survive_is_started_once_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = Starts(1, monkeypatch)
    up._start_ray("127.0.0.1", 1, lambda: None, up.threading.Event())
    assert (len(starts.ports), starts.stopped) == (2, 1)
    assert starts.ports[0] != starts.ports[1]
    assert "started once more: Ray's raylet ended with status 1: it said why." in capsys.readouterr().out


def test_a_node_that_does_not_survive_twice_is_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = Starts(3, monkeypatch)
    with pytest.raises(typer.Exit) as caught:
        up._start_ray("127.0.0.1", 1, lambda: None, up.threading.Event())
    assert (caught.value.exit_code, len(starts.ports)) == (1, 2)
    assert "it said why; its logs are in " in capsys.readouterr().err


def test_nothing_is_started_again_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts(1, monkeypatch)
    with pytest.raises(typer.Exit):
        up._start_ray("127.0.0.1", 1, lambda: "not ready after 1 s", up.threading.Event())
    assert len(starts.ports) == 1


def test_ports_of_agents_are_four_that_nobody_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "is_ephemeral", lambda port: False)
    ports = up._agent_ports()
    assert len(set(ports)) == 4
    assert all(port in up._AGENT_PORTS for port in ports)
    monkeypatch.setattr(up, "is_ephemeral", lambda port: True)
    assert up._agent_ports() == []
