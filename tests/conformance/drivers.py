"""The real clients, headless: each in a home of its own, configured by what `gatehouse client-config` writes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serve_app.config import ROOT

LIMIT_S = 150.0
KEY_ENV = "GATEHOUSE_API_KEY"
SCRIPTS = Path(__file__).parent / "scripts"
LOCKS = Path(__file__).parent / "clients"
_IDLE = re.compile(r"^.*(stream_idle_timeout_ms|CLAUDE_STREAM_IDLE_TIMEOUT_MS).*\n", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
# What a client needs of this process's environment; nothing of it says where a model is.
_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Ran:
    """How a client ended. `exit_code` None: it was still running at the limit and was killed."""

    exit_code: int | None
    output: str
    errors: str
    seconds: float

    @property
    def text(self) -> str:
        return f"{self.output}\n{self.errors}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client runs: its home, its working folder, and how it reaches Gatehouse."""

    home: Path
    folder: Path
    url: str
    key: str
    model: str = "gpt-oss-120b"
    default_timers: bool = False
    """The client's own idle timers instead of the longer ones that our configuration sets."""


@dataclass(frozen=True)
class Client:
    """One client, and how it is started."""

    name: str
    program: Path
    dialect: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        return None if self.program.exists() else f"{self.name} is not installed: scripts/clients.sh says why"

    def version(self) -> str:
        """What it calls itself."""
        ran = subprocess.run(
            [str(self.program), "--version"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        found = re.search(r"\d+\.\d+\.\d+", ran.stdout)
        return found.group(0) if found else "unknown"

    def configure(self, place: Place) -> dict[str, str]:
        """Write the configuration; the answer is the environment that goes with it."""
        raise NotImplementedError

    def run(self, place: Place, prompt: str, configured: Mapping[str, str], limit_s: float = LIMIT_S) -> Ran:
        """Ask once, and wait for the end; `configured` is what `configure` answered."""
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"HOME": str(place.home), "NO_COLOR": "1", "CI": "1", "TERM": "dumb", **self.environment}
        environment |= {KEY_ENV: place.key, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **configured}
        return _run(
            [str(self.program), *self.arguments, *self.prompt(place, prompt)], place.folder, environment, limit_s
        )

    def prompt(self, place: Place, prompt: str) -> Sequence[str]:
        """The last arguments."""
        del place
        return [prompt]


class Codex(Client):
    def configure(self, place: Place) -> dict[str, str]:
        folder = place.home / ".codex"
        client_config("codex", place, folder)
        return {"CODEX_HOME": str(folder)}


class ClaudeCode(Client):
    def configure(self, place: Place) -> dict[str, str]:
        client_config("claude-code", place, place.home)
        return sourced(place.home / "claude-code.sh", place)


class OpenCode(Client):
    def configure(self, place: Place) -> dict[str, str]:
        client_config("opencode", place, place.home / ".config" / "opencode")
        return {}


class Continue(Client):
    def configure(self, place: Place) -> dict[str, str]:
        client_config("continue", place, place.home)
        return {}

    def prompt(self, place: Place, prompt: str) -> Sequence[str]:
        return ["--config", str(place.home / "config.yaml"), "-p", prompt]


class Aider(Client):
    def configure(self, place: Place) -> dict[str, str]:
        client_config("aider", place, place.folder)
        return sourced(place.folder / "aider.sh", place)


@dataclass(frozen=True)
class Library(Client):
    """A library, driven by a small agent of ours in `scripts/`."""

    installed: str = ""
    """The version in the lock that it was installed from."""

    def version(self) -> str:
        return self.installed

    def configure(self, place: Place) -> dict[str, str]:
        return {"GATEHOUSE_URL": place.url, "GATEHOUSE_MODEL": place.model}


def client_config(client: str, place: Place, folder: Path) -> None:
    """What `gatehouse client-config` writes for the client."""
    made = subprocess.run(
        [sys.executable, "-m", "serve_app", "client-config", client, "--url", place.url, "--model", place.model,
         "--key-env", KEY_ENV, "--write", str(folder), "--force"],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, cwd=ROOT,
        env={**os.environ, KEY_ENV: place.key},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "are assumed" not in made.stderr, made.stderr  # it must have asked the server for its models
    if place.default_timers:
        for name in ("config.toml", "claude-code.sh"):
            if (folder / name).exists():
                (folder / name).write_text(_IDLE.sub("", (folder / name).read_text()))


def sourced(file: Path, place: Place) -> dict[str, str]:
    """The variables that a shell exports after sourcing `file`."""
    script = f"set -a; . {shlex.quote(str(file))}; env -0"
    shell = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True, env={KEY_ENV: place.key, "PATH": os.defpath}
    )
    pairs = (each.split("=", 1) for each in shell.stdout.split("\0") if each)
    return {name: value for name, value in pairs if name not in ("PWD", "SHLVL", "_", "PATH", "OLDPWD")}


class Clients:
    """The clients that `scripts/clients.sh` has installed."""

    def __init__(self, cache: Path) -> None:
        node = cache / "node" / "node_modules" / ".bin"
        self._all: dict[str, Client] = {}
        for client in (
            Codex(
                "codex", node / "codex", "responses",
                arguments=("exec", "--skip-git-repo-check", "--sandbox", "danger-full-access"),
            ),
            ClaudeCode(
                "claude-code", node / "claude", "messages",
                arguments=("--allowedTools", "Bash,Edit,Read,Write", "-p"),
            ),
            OpenCode(
                "opencode", node / "opencode", "chat", arguments=("run",),
                environment={
                    "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1",
                    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1", "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
                },
            ),
            Continue(
                "continue", node / "cn", "chat", arguments=("--silent", "--auto"),
                environment={"CONTINUE_TELEMETRY_ENABLED": "0"},
            ),
            Aider(
                "aider", cache / "aider" / "bin" / "aider", "chat",
                arguments=("--no-git", "--yes-always", "--no-pretty", "--message"),
            ),
        ):  # fmt: skip
            self._all[client.name] = client
        for client in libraries(cache):
            self._all[client.name] = client

    def installed(self, name: str) -> bool:
        """True when the client can run here."""
        return self._all[name].missing is None

    def __getitem__(self, name: str) -> Client:
        """The client, or a skip that says why it is not there."""
        client = self._all[name]
        if client.missing:
            pytest.skip(client.missing)
        return client


def libraries(cache: Path) -> list[Library]:
    """Every library in every way it speaks."""

    def python(venv: str, package: str, script: str, label: str, **modes: str) -> list[Library]:
        lock = (LOCKS / f"{venv}.lock").read_text()
        version = re.search(rf"^{re.escape(package)}==(\S+)", lock, re.MULTILINE)
        assert version is not None
        return [
            Library(
                f"{label}-{mode}", cache / venv / "bin" / "python", dialect,
                arguments=(str(SCRIPTS / script), mode), installed=version.group(1),
                environment={"OPENAI_AGENTS_DISABLE_TRACING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            )
            for mode, dialect in modes.items()
        ]  # fmt: skip

    def node(package: str, script: str, label: str, **modes: str) -> list[Library]:
        modules = cache / "node" / "node_modules"
        version = json.loads((LOCKS / "package.json").read_text())["dependencies"][package]
        program = Path(shutil.which("node") or "/nowhere/node")
        return [
            Library(
                f"{label}-{mode}", program if (modules / package).is_dir() else modules / package, dialect,
                arguments=(str(SCRIPTS / script), mode), installed=version,
                environment={"GATEHOUSE_NODE_MODULES": str(modules)},
            )
            for mode, dialect in modes.items()
        ]  # fmt: skip

    four = {"chat": "chat", "chat-stream": "chat", "responses": "responses", "responses-stream": "responses"}
    return [
        *python("openai", "openai", "openai_sdk.py", "openai-python-3", **four),
        *python("sdks", "openai", "openai_sdk.py", "openai-python-2", **four),
        *python("sdks", "anthropic", "anthropic_sdk.py", "anthropic-python", whole="messages", stream="messages"),
        *python(
            "sdks", "openai-agents", "agents_sdk.py", "openai-agents",
            **{"responses": "responses", "responses-stream": "responses", "chat": "chat"},
        ),
        *python("sdks", "langchain-openai", "langchain_sdk.py", "langchain", chat="chat"),
        *node("openai", "openai_node.mjs", "openai-node", chat="chat", responses="responses"),
        *node("@anthropic-ai/sdk", "anthropic_node.mjs", "anthropic-node", messages="messages"),
    ]  # fmt: skip


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str], limit_s: float) -> Ran:
    started_s = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    exit_code: int | None
    try:
        output, errors = process.communicate(timeout=limit_s)
        exit_code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        exit_code = None
    return Ran(exit_code, _COLOUR.sub("", output), _COLOUR.sub("", errors), time.monotonic() - started_s)


def fresh_home(folder: Path) -> Path:
    """An empty home."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
