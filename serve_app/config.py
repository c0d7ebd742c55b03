"""Configuration: one pydantic tree, and the only reader of YAML and environment."""

import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_STATE_DIR = Path(".gatehouse")


@dataclass(frozen=True, slots=True)
class ClientEnvironment:
    """What the command line needs to reach a server."""

    url: str
    key: str | None
    key_file: Path


def client_environment(state_dir: Path | None = None) -> ClientEnvironment:
    """URL and key of the command line, from `GATEHOUSE_URL`, `GATEHOUSE_KEY` and the operator's key file."""
    root = state_dir or Path(os.environ.get("GATEHOUSE_STATE_DIR", DEFAULT_STATE_DIR))  # noqa: TID251
    key_file = root / "operator.key"
    key = os.environ.get("GATEHOUSE_KEY")  # noqa: TID251
    if not key and key_file.is_file():
        key = key_file.read_text(encoding="utf-8").strip()
    url = os.environ.get("GATEHOUSE_URL", "http://127.0.0.1:8000")  # noqa: TID251
    return ClientEnvironment(url=url.rstrip("/"), key=key or None, key_file=key_file)
