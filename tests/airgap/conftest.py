"""One bundle and one installation for the whole tier; both are deleted at its end, for they take 6 GB."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from serve_app.config import ROOT, load_serve_file
from serve_app.prepare import prepare
from tests.airgap.namespaces import NO_WAY_OUT, inside, missing

CONFIG = ROOT / "configs" / "serve.local.yaml"
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.airgap)
            item.add_marker(pytest.mark.timeout(7200))
            item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM's imports warn about a lot


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A short path: Ray puts sockets below it."""
    if lacking := missing():
        pytest.skip(f"{', '.join(lacking)} not installed (Debian: util-linux, iproute2, strace); nothing was proved")
    folder = Path(tempfile.mkdtemp(prefix="gh-"))
    yield folder
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Site:
    """A machine without a network: where the bundle arrived, and where it is installed."""

    bundle: Path
    key: Path
    target: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of somebody who has set nothing. Ray's own folder apart: others on this machine use the usual one."""
        return {**ENVIRONMENT, "HOME": str(self.home), "RAY_TMPDIR": str(self.home)}

    def install(self) -> "subprocess.CompletedProcess[str]":
        command = inside(NO_WAY_OUT, "sh", str(self.bundle / "install.sh"), str(self.key), str(self.target))
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False)


@pytest.fixture(scope="session")
def site(scratch: Path) -> Site:
    """A bundle with one model by its weights and one that the package brings along, made as a user makes it."""
    document = yaml.safe_load(CONFIG.read_text())
    app = load_serve_file(CONFIG).app
    weights = prepare(app)["demo-20b"]
    document["applications"][0]["args"] |= {"min_memory_gib": 0}
    document["applications"][0]["args"]["models"][0]["engine"]["source"] = "/models/demo-20b"
    config = scratch / "serve.airgap.yaml"
    config.write_text(yaml.safe_dump(document))
    made = Ed25519PrivateKey.generate()
    private, public = scratch / "maker.pem", scratch / "maker.pub"
    private.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    bundle, home = scratch / "bundle", scratch / "h"
    home.mkdir(exist_ok=True)
    create = [sys.executable, "-m", "serve_app.bundle", "create", "--to", str(bundle), "--config", str(config)]
    create += ["--weights", f"demo-20b={weights}", "--sign-with", str(private)]
    done = subprocess.run(create, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Site(bundle, public, scratch / "t", home)


@pytest.fixture(scope="session")
def installed(site: Site) -> Site:
    done = site.install()
    assert done.returncode == 0, done.stderr
    return site
