"""Marks that a bundle's examples have passed on this machine, so that not every start runs them again.

A mark is a file in the state directory. It counts only for exactly this bundle (its digest), this code (the gate's own
sources, and the versions of its parsers), this interpreter, and only in a directory that nobody else may write to.
Anything else, or anything unreadable, is no mark: the examples run. Laws and floors are checked at every load, with a
mark or without; examples find mistakes, and are no defence against whoever may write here.
"""

import hashlib
import logging
import os
import stat
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import rfc8785

from deployments.ports import JsonValue

_log = logging.getLogger("gatehouse.gate")
_PARSERS = ("shfmt-py", "tree-sitter", "tree-sitter-bash", "sqlglot", "pydantic", "pyyaml")


@cache
def code_digest() -> str:
    """SHA-256 hex of what decides besides the bundle: the gate's sources, its parsers, the interpreter."""
    here = Path(__file__).resolve().parent
    digest = hashlib.sha256(sys.version.encode())
    for package in _PARSERS:
        digest.update(f"{package}=={version(package)}\n".encode())
    for path in sorted(here.rglob("*.py")):
        digest.update(f"{path.relative_to(here)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_marked(directory: Path, policy_digest: str) -> bool:
    """True when all examples of this bundle are known to have passed here, under this code."""
    try:
        state = directory.stat()
        if state.st_uid != os.getuid() or stat.S_IMODE(state.st_mode) & 0o022:
            return False
        return _path(directory, policy_digest).read_bytes() == _content(policy_digest)
    except OSError:
        return False


def mark(directory: Path, policy_digest: str) -> None:
    """Remember that all examples passed. A directory that cannot be written to costs the next start their time."""
    path = _path(directory, policy_digest)
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside.write_bytes(_content(policy_digest))
        beside.replace(path)
    except OSError as error:
        _log.warning("the examples of the policy will run at every start: %s", error.strerror)


def _path(directory: Path, policy_digest: str) -> Path:
    return directory / f"{policy_digest[:32]}.json"


def _content(policy_digest: str) -> bytes:
    said: dict[str, JsonValue] = {"code_digest": code_digest(), "policy_digest": policy_digest}
    return rfc8785.dumps(said)
