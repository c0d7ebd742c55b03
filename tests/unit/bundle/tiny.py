"""A checkout as small as a bundle can be made of: real wheels of a few lines, a checkpoint of a few bytes."""

import hashlib
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from serve_app.bundle.contents import Contents, Overlay, contents
from serve_app.bundle.create import Created, create
from serve_app.bundle.layout import BundleRefused
from serve_app.bundle.wheels import run
from serve_app.config import load_serve_file

NOW_MS = 1_795_000_000_000
DIGEST = "sha256:" + 32 * "ab"
VOCABULARY = b"AA== 0\n"
CLI = "import sys\n\ndef main():\n    sys.exit(0 if sys.argv[1] == 'check-config' else 3)\n"


def write_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    head: Sequence[str] = (),
    modules: Mapping[str, str] = {},
    script: str | None = None,
) -> Path:
    """A wheel that pip installs. `head`: further lines of its metadata."""
    module = name.replace("-", "_")
    about = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": "",
        **modules,
        f"{about}/METADATA": "\n".join(
            ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *head, "", ""]
        ),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tiny\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script is not None:
        files[f"{about}/entry_points.txt"] = f"[console_scripts]\n{script}\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, text in files.items():
            wheel.writestr(zipfile.ZipInfo(inside), text)
        record = "".join(f"{inside},,\n" for inside in [*files, f"{about}/RECORD"])
        wheel.writestr(zipfile.ZipInfo(f"{about}/RECORD"), record)
    return path


def pin(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return (
        f"{name.replace('_', '-')}=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    )


@dataclass
class World:
    """A machine on which bundles are made."""

    root: Path
    index: Path
    key: Ed25519PrivateKey
    private: Path
    public: Path
    started: list[Sequence[str]]

    def start(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
        """Commands for real, but for the build of our own wheel, which is a tiny one here."""
        self.started.append(command)
        if "hatchling" in command:
            head = ["License-Expression: Apache-2.0", "Requires-Dist: plain"]
            write_wheel(Path(command[-1]), "gatehouse-serving", "9.9", head=head, modules={"cli.py": CLI},
                        script="gatehouse = cli:main")  # fmt: skip
            return ""
        if "--extra-index-url" in command:
            raise BundleRefused("nothing is asked of a network here")
        return run(command, folder, environment)

    def config(self, **args: object) -> Path:
        """A Serve config file in the checkout's configs/, with these arguments laid over the usual ones."""
        engine = {"model": "tiny", "revision": "r1", "source": "/models/tiny", "num_cpus": 0.1}
        document = {
            "applications": [
                {
                    "name": "gatehouse",
                    "import_path": "serve_app.app:build",
                    "args": {
                        "profile": "local",
                        "routing_policy": "configs/policies/routing.yaml",
                        "gate": {"bundle": "configs/policies/default.yaml"},
                        "models": [{"tier": "20b", "engine": engine}],
                    }
                    | args,
                }
            ]
        }
        path = self.root / "configs" / "serve.tiny.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def contents(self, config: Path | None = None, **more: object) -> Contents:
        given = {"weights": {"tiny": self.root / "checkpoint"}, **more}
        return contents(self.root, load_serve_file(config or self.config()), **given)  # type: ignore[arg-type]

    def make(self, target: Path, gathered: Contents | None = None, signed: bool = True) -> Created:
        overlay = Overlay("edge", "kind: Pod\n", [f"registry.internal/gatehouse:1@{DIGEST}"])
        gathered = gathered or self.contents(overlays=[overlay], added=[self.root / "LICENCE.txt"])
        environment = {"PATH": "/usr/bin:/bin", "GATEHOUSE_OFFLINE": "1", "PIP_CONFIG_FILE": "/dev/null"}
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index)}
        return create(
            gathered, target, self.key if signed else None, NOW_MS, environment, wheels=[self.index], start=self.start
        )


def write_key(folder: Path, name: str) -> tuple[Ed25519PrivateKey, Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key, private, public


def write_world(folder: Path) -> World:
    root, index = folder / "checkout", folder / "index"
    for name in ("requirements", "configs/policies", "kuberay/operator", "checkpoint/sub", ".gatehouse/vocabulary"):
        (root / name).mkdir(parents=True)
    (root / "pyproject.toml").write_text("")
    (root / "LICENCE.txt").write_text("free\n")
    (root / ".gatehouse" / "vocabulary" / "o200k_base.tiktoken").write_bytes(VOCABULARY)
    for name in ("default", "routing"):
        (root / "configs" / "policies" / f"{name}.yaml").write_text("version: 1\n")
    (root / "kuberay" / "operator" / "values.yaml").write_text(
        yaml.safe_dump({"image": {"repository": "quay.internal:5000/operator", "tag": f"v1@{DIGEST}"}})
    )
    (root / "checkpoint" / "config.json").write_text("{}")
    (root / "checkpoint" / "sub" / "weights.bin").write_bytes(bytes(range(256)) * 40)
    torch = write_wheel(index, "torch-like", head=["License: BSD-3-Clause"])
    plain = write_wheel(
        index, "plain", head=["Requires-Dist: deep>=1", "Classifier: License :: OSI Approved :: MIT License"]
    )
    deep = write_wheel(index, "deep")
    (root / "requirements" / "torch-cpu.lock").write_text(pin(torch))
    (root / "requirements" / "cpu.lock").write_text(pin(plain) + pin(deep))
    return World(root, index, *write_key(folder, "maker"), started=[])


def copy_of(bundle: Path, folder: Path) -> Path:
    return shutil.copytree(bundle, folder / "bundle", symlinks=True)
