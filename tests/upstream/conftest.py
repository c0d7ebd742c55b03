"""A real llama.cpp server on the loopback interface, with a tiny model of random weights."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).resolve().parents[2]
_START_S = 120.0


@pytest.fixture(scope="session")
def interpreter() -> str:
    """The Python that has llama.cpp; skips, saying why, where there is none."""
    given = os.environ.get("GATEHOUSE_LLAMACPP_PYTHON")
    python = given or str(ROOT / ".gatehouse" / "llamacpp" / "bin" / "python")
    if given is None and not Path(python).is_file():
        pytest.skip("no llama.cpp here: run scripts/llamacpp.sh, or name an interpreter: GATEHOUSE_LLAMACPP_PYTHON")
    probe = subprocess.run([python, "-c", "import gguf, llama_cpp.server"], capture_output=True, text=True)
    assert probe.returncode == 0, f"{python} cannot run llama.cpp: {probe.stderr[-500:]}"
    return python


@pytest.fixture(scope="session")
def weights(interpreter: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with the smallest model that llama.cpp still runs as one."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    subprocess.run([interpreter, str(Path(__file__).with_name("tiny_gguf.py")), str(path)], check=True)
    return path


class LlamaCpp:
    """`llama_cpp.server` in a process of its own, always on the same port."""

    def __init__(self, interpreter: str, weights: Path, folder: Path, key: str) -> None:
        self._command = [
            interpreter, "-u", "-m", "llama_cpp.server", "--model", str(weights), "--model_alias", "tiny-gguf",
            "--host", "127.0.0.1", "--n_ctx", "8192", "--n_threads", "1", "--n_threads_batch", "1",
            "--interrupt_requests", "False", "--verbose", "False", "--api_key", key,
        ]  # fmt: skip
        self._key = key
        self._log = folder / "llamacpp.log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        """Returns when it answers."""
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port)], stdout=sink, stderr=sink, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"llama.cpp's server did not start:\n{self.log[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """At once, as a crash would."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        try:
            answer = httpx2.get(f"{self.url}/models", headers={"authorization": f"Bearer {self._key}"}, trust_env=False)
        except httpx2.TransportError:
            return False
        return answer.status_code == 200


@pytest.fixture(scope="session")
def api_key() -> str:
    return "sk-of-the-upstream"


@pytest.fixture(scope="session")
def _server(
    interpreter: str, weights: Path, api_key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaCpp]:
    server = LlamaCpp(interpreter, weights, tmp_path_factory.mktemp("llamacpp"), api_key)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def llamacpp(_server: LlamaCpp) -> Iterator[LlamaCpp]:
    """The server; one that a test has stopped runs again for the next."""
    yield _server
    if _server._process is None:
        _server.start()
