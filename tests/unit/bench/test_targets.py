"""How servers are started and stopped; the processes here are small scripts of our own."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from serve_app.bench.soak_memory import process_tree
from serve_app.bench.targets import (
    TARGETS,
    Interpreters,
    Launch,
    Server,
    Site,
    TargetFailed,
    check_import,
    demo_engine,
    free_port,
    gatehouse_document,
    gatehouse_engine,
    launch,
    litellm_document,
    ray_llm_settings,
    synthetic_engine,
    vllm_launch,
)  # fmt: skip
from serve_app.config import ROOT, parse_config

ENGINE = demo_engine("/models/demo-20b")


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> Site:
    for name in ("out", "state", "models", "vocabulary"):
        (tmp_path / name).mkdir()
    return Site(
        out=tmp_path / "out",
        state=tmp_path / "state",
        models=tmp_path / "models",
        vocabulary=tmp_path / "vocabulary",
        interpreters=Interpreters(sys.executable, litellm="/envs/litellm/bin/python"),
        environment={"PATH": "/bin", "GATEHOUSE_KEY": "secret", "VLLM_PLUGINS": "x", "RAY_ADDRESS": "elsewhere"},
    )


def options(argv: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in zip(argv, argv[1:], strict=False) if name.startswith("--")}


def test_the_bare_server_and_the_stock_app_get_the_engine_of_gatehouse(site: Site) -> None:
    bare = options(vllm_launch(ENGINE, 1234, site).argv)
    stock = ray_llm_settings(ENGINE, 1234, "/voc")["engine_kwargs"]
    block = gatehouse_engine(ENGINE)
    for name in ("dtype", "max_model_len", "max_num_seqs", "kv_cache_memory_bytes"):
        assert bare[f"--{name.replace('_', '-')}"] == str(block[name]) == str(stock[name])
    assert "--enforce-eager" in vllm_launch(ENGINE, 1, site).argv
    assert (stock["enforce_eager"], block["enforce_eager"]) == (True, True)
    assert (bare["--tool-call-parser"], bare["--reasoning-parser"]) == ("openai", "openai_gptoss")
    assert (stock["tool_call_parser"], stock["reasoning_parser"]) == ("openai", "openai_gptoss")


def test_servers_inherit_no_key_and_no_setting(site: Site) -> None:
    env = vllm_launch(ENGINE, 1234, site).env
    assert "GATEHOUSE_KEY" not in env
    assert "RAY_ADDRESS" not in env
    assert (env["VLLM_PLUGINS"], env["PATH"], env["OMP_NUM_THREADS"]) == ("", "/bin", "1")
    assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert env["TIKTOKEN_ENCODINGS_BASE"] == str(site.vocabulary)
    assert "secret" not in repr(site)


@pytest.mark.parametrize("block", [gatehouse_engine(ENGINE), synthetic_engine(0.0, 10.0)])
def test_the_configuration_of_gatehouse_is_one_that_it_reads(block: dict) -> None:
    base = yaml.safe_load((ROOT / "configs" / "serve.local.yaml").read_text())
    document = gatehouse_document(base, block, 4321, "/state")
    app = parse_config(document["applications"][0]["args"], "here")
    (model,) = app.models
    assert (model.engine.model, model.engine.kind_name) == (block["model"], block.get("kind", "vllm"))
    assert app.tenancy.max_concurrent_requests >= 1024
    assert (app.state_dir, document["http_options"]["port"]) == ("/state", 4321)
    assert base["applications"][0]["args"]["models"] != document["applications"][0]["args"]["models"]


def test_gatehouse_shares_checkpoints_and_keeps_its_state_apart(site: Site) -> None:
    plan = launch("gatehouse", ENGINE, gatehouse_engine(ENGINE), site)
    assert plan.argv[1:4] == ("-m", "serve_app", "up")
    assert (site.state / "models").resolve() == site.models
    assert (site.out / "serve.bench.yaml").is_file()
    assert plan.prints_key


def test_litellm_stands_in_front_of_the_bare_server(site: Site) -> None:
    plan = launch("litellm", ENGINE, {}, site, "http://127.0.0.1:9")
    assert plan.argv[0] == "/envs/litellm/bin/litellm"
    written = yaml.safe_load((site.out / "litellm.yaml").read_text())
    assert written == litellm_document("demo-20b", "http://127.0.0.1:9")
    assert plan.key == plan.env["LITELLM_MASTER_KEY"]
    assert str(plan.key) not in repr(plan)
    assert written["model_list"][0]["litellm_params"]["api_base"] == "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(("name", "word"), [("ray-llm", "--ray-llm-python"), ("litellm", "behind it"), ("x", "x")])
def test_what_cannot_be_started_says_why(site: Site, name: str, word: str) -> None:
    with pytest.raises(TargetFailed, match=word):
        launch(name, ENGINE, {}, site)
    assert name in TARGETS or name == "x"


def test_a_module_that_is_missing_is_named() -> None:
    with pytest.raises(TargetFailed, match="cannot import no_such_module_here"):
        check_import(sys.executable, "no_such_module_here", {"PATH": "/bin"})
    with pytest.raises(TargetFailed, match="cannot be run"):
        check_import("/no/such/python", "json", {})
    check_import(sys.executable, "json", {"PATH": "/bin"})


def test_free_ports_are_below_the_ephemeral_range() -> None:
    assert 20_000 <= free_port() < 32_000


def script(code: str, **more: object) -> Launch:
    env = {"PATH": os.defpath}
    return Launch("own", (sys.executable, "-u", "-c", code), env, "http://127.0.0.1:1", "m", **more)  # type: ignore[arg-type]


CHILD = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "  # noqa: E501
WAIT = "import signal, threading; signal.signal(signal.SIGINT, lambda *_: sys.exit(0)); print('up: gh-abc_1'); signal.pause()"  # noqa: E501


def test_a_server_is_started_asked_for_its_key_and_stopped_with_its_children(tmp_path: Path) -> None:
    server = Server(script(CHILD + WAIT, ready_text="up", prints_key=True), tmp_path)
    server.start(60)
    assert server.pid is not None
    tree = process_tree(server.pid)
    endpoint = server.endpoint(7, None)
    server.stop()
    assert len(tree) == 2
    assert (endpoint.key, endpoint.pids[1:]) == ("gh-abc_1", (7,))
    assert server.log.stat().st_mode & 0o077 == 0
    assert not any(process_tree(pid) for pid in tree)
    server.stop()  # does nothing the second time


def test_a_server_that_ends_shows_the_end_of_its_log_without_keys(tmp_path: Path) -> None:
    server = Server(script("import sys; print('bad flag gh-secret'); sys.exit(3)", ready_path="/health"), tmp_path)
    with pytest.raises(TargetFailed, match="ended with status 3") as raised:
        server.start(60)
    assert "bad flag" in str(raised.value)
    assert "gh-secret" not in str(raised.value)
    assert server.pid is None


@pytest.mark.parametrize("own_session", [False, True])
def test_a_server_that_ends_by_itself_leaves_no_child(tmp_path: Path, own_session: bool) -> None:
    go, pid = tmp_path / "go", tmp_path / "pid"

    class Watched(Server):
        def _remember(self, root: int) -> None:
            super()._remember(root)
            if len(self._seen) == 2:
                go.touch()

    # In its own session a child is known only by what was seen while its parent lived; else by the session.
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
        f"start_new_session={own_session})\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
        f"while {own_session} and not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "sys.exit(3)"
    )
    with pytest.raises(TargetFailed, match="ended with status 3"):
        Watched(script(code, ready_path="/health"), tmp_path).start(60)
    assert not process_tree(int(pid.read_text()))


def test_a_server_that_is_never_ready_is_stopped(tmp_path: Path) -> None:
    server = Server(script("import sys; " + WAIT, ready_text="never said"), tmp_path)
    with pytest.raises(TargetFailed, match="not ready after"):
        server.start(0)
    assert server.pid is None


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    plan = Launch("own", ("/no/such/program",), {}, "http://127.0.0.1:1", "m", ready_text="up")
    with pytest.raises(TargetFailed, match="cannot be started"):
        Server(plan, tmp_path).start(1)
