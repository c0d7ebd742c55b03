"""Starting and stopping as a person does: `serve run`, then `gatehouse up` over the same state, then Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import openai
import pytest
import yaml

from tests.serve.conftest import Stack, free_port, start, stop, wait_gone, write_config
from tests.serve.test_rollout import synthetic


def interruptible() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_serve_run_then_up_then_nothing_is_left(prepared: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, prepared, port)
    document = yaml.safe_load(config.read_text())
    models = document["applications"][0]["args"]["models"]
    del models[1:]
    config.write_text(yaml.safe_dump(document))
    state, output = tmp_path / "state", tmp_path / "serve-run.txt"
    with output.open("w") as sink:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("serve")), "run", str(config)], stdout=sink, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, start_new_session=True,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
            preexec_fn=interruptible,
        )  # fmt: skip
    try:
        served = Stack(f"http://127.0.0.1:{port}", "", state, config, process, output)
        deadline = time.monotonic() + 600
        while not ready(served.url):
            assert process.poll() is None, output.read_text()[-4000:]
            assert time.monotonic() < deadline, output.read_text()[-4000:]
            time.sleep(0.5)
        key = served.cli("keys", "create", "--tenant", "default", "--name", "me").stdout.strip()
        sdk = openai.OpenAI(api_key=key, base_url=f"{served.url}/v1", max_retries=0, timeout=60)
        reply = sdk.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "Who are you?"}], temperature=0
        )
        assert "demo-20b" in (reply.choices[0].message.content or "")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
    wait_gone(process.pid)

    models[0]["engine"] = synthetic("demo-20b")  # `up` has loaded real ones already, for the rest of this tier
    config.write_text(yaml.safe_dump(document))
    again = start(config, port, state, tmp_path / "up.txt")
    try:
        assert "A development key exists already" in again.output.read_text()  # shown once means once
        assert again.key == ""
        sdk = openai.OpenAI(api_key=key, base_url=f"{again.url}/v1", max_retries=0, timeout=60)
        assert [model.id for model in sdk.models.list()][0] == "auto"
    finally:
        code = stop(again.process)
    assert code == 0
    assert "stopped." in again.output.read_text()
    wait_gone(again.process.pid)
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{again.url}/healthz", timeout=2)
    verified = again.cli("audit", "verify", str(state / "audit"), check=False)
    assert verified.returncode == 0, verified.stdout


def ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize(
    ("change", "words", "code"),
    [
        ({"stat_dir": "x"}, "unknown key 'stat_dir'", 2),
        ({"min_memory_gib": 100_000}, "GiB of memory are free and this profile needs", 1),
    ],
)
def test_what_cannot_start_says_why_in_one_sentence(
    prepared: dict[str, str], tmp_path: Path, change: dict[str, object], words: str, code: int
) -> None:
    config = write_config(tmp_path, prepared, free_port())
    document = yaml.safe_load(config.read_text())
    document["applications"][0]["args"] |= change
    config.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [sys.executable, "-m", "serve_app", "up", "--config", str(config)], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
