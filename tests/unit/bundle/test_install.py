"""An installation is whole or not there, and the second one has nothing to do."""

import fcntl
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from serve_app.bundle.install import Installed, Machine, install
from serve_app.bundle.layout import BundleRefused, read_sums, sums_text
from serve_app.bundle.signature import public_key
from serve_app.config import load_serve_file
from serve_app.prepare import prepare
from tests.unit.bundle.tiny import World

GOOD = Machine("3.11", "x86_64", "2.36", ())


class Starter:
    """Commands as an installation starts them: the environment is a folder, pip does nothing. `fail`: at which one."""

    def __init__(self, fail: str = "") -> None:
        self.fail = fail
        self.commands: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
        self.commands.append(command)
        assert not {name for name in environment if "PROXY" in name.upper() or name.startswith("PYTHON")}
        if self.fail and self.fail in command:
            raise BundleRefused("the power is gone")
        if "venv" in command:
            (Path(command[-1]) / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
        return ""


def put(bundle: Path, target: Path, world: World, start: Starter | None = None, machine: Machine = GOOD) -> Installed:
    return install(bundle, target, public_key(world.public), start=start or Starter(), machine=lambda _: machine)


def sign_again(bundle: Path, world: World, changed: str) -> None:
    sums = dict(read_sums((bundle / "SHA256SUMS").read_bytes()))
    sums[changed] = hashlib.sha256((bundle / changed).read_bytes()).hexdigest()
    data = sums_text(sums)
    (bundle / "SHA256SUMS").write_bytes(data)
    (bundle / "SHA256SUMS.sig").write_bytes(world.key.sign(data))


def test_weights_and_vocabulary_are_where_prepare_looks(made: Path, world: World, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = put(made, target, world)
    assert done.fresh
    assert (target / "current").resolve() == done.release
    app = load_serve_file(target / "current" / "serve.yaml").app
    (place,) = prepare(app).values()
    assert Path(place).parent == target / "models"
    assert (Path(place) / "sub" / "weights.bin").read_bytes() == (made / "weights/tiny/sub/weights.bin").read_bytes()
    assert app.state_path == target / "state"
    assert not app.state_path.exists(), "the first start makes it"
    assert app.vocabulary_dir == str(done.release / "vocabulary")
    packages = done.release / "venv" / "lib" / "python3.11" / "site-packages"
    assert (packages / "configs" / "policies" / "default.yaml").is_file(), "whatever the working directory is"
    assert done.command == (
        f"cd {target} && {target}/current/venv/bin/gatehouse up --config {target}/current/serve.yaml"
    )


def test_pip_gets_the_wheels_of_the_bundle_and_asks_nobody_else(made: Path, world: World, tmp_path: Path) -> None:
    start = Starter()
    done = put(made, tmp_path / "target", world, start)
    pip = next(command for command in start.commands if "pip" in command)
    assert {"--isolated", "--no-index", "--no-deps", "--require-hashes"} <= set(pip)
    assert pip[pip.index("--find-links") + 1] == str(made / "wheels")
    listed = [Path(pip[at + 1]) for at, word in enumerate(pip) if word == "--requirement"]
    assert {path.parent for path in listed} == {done.release / "requirements"}, "the copies that were checked"
    assert [path.name for path in listed] == ["torch-cpu.lock", "cpu.lock", "own.txt"]


def test_the_package_finds_what_lies_beside_it(made: Path, world: World, tmp_path: Path) -> None:
    """So that `gatehouse manifests` says there, too, whether an overlay fits its configuration."""
    release = put(made, tmp_path / "target", world).release
    packages = release / "venv" / "lib" / "python3.11" / "site-packages"
    assert {path.name: path.resolve() for path in packages.iterdir()} == {
        name: release.resolve() / name for name in ("configs", "kuberay")
    }


def test_a_second_installation_finds_that_it_is_done(made: Path, world: World, tmp_path: Path) -> None:
    first = put(made, tmp_path / "target", world)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "target").rglob("*"))
    start = Starter()
    second = put(made, tmp_path / "target", world, start)
    assert (second.fresh, second.release, start.commands) == (False, first.release, [])
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "target").rglob("*")) == before


@pytest.mark.parametrize("at", ["venv", "pip", "check-config"])
def test_half_an_installation_is_never_in_use_and_is_made_anew(
    made: Path, bundle: Path, world: World, tmp_path: Path, at: str
) -> None:
    target = tmp_path / "target"
    (bundle / "added" / "LICENCE.txt").write_text("another bundle\n")
    sign_again(bundle, world, "added/LICENCE.txt")
    old = put(bundle, target, world)
    with pytest.raises(BundleRefused, match="the power is gone"):
        put(made, target, world, Starter(fail=at))
    assert (target / "current").resolve() == old.release
    said: list[str] = []
    done = install(made, target, public_key(world.public), start=Starter(), machine=lambda _: GOOD, say=said.append)
    assert done.fresh
    assert f"{done.release} was not finished; it is made anew" in said
    assert "the weights of tiny are there already; checking them" in said
    assert (target / "current").resolve() == done.release


def test_going_back_is_installing_the_older_bundle_again(
    made: Path, bundle: Path, world: World, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    old = put(made, target, world)
    (bundle / "configs" / "policies" / "default.yaml").write_text("version: 2\n")
    sign_again(bundle, world, "configs/policies/default.yaml")
    new = put(bundle, target, world)
    assert new.fresh
    assert new.release != old.release
    back = put(made, target, world)
    assert (back.fresh, (target / "current").resolve()) == (False, old.release)


@pytest.mark.parametrize("made_at_ms", [1_800_000_000_000, 10**25])
def test_a_step_back_is_said(made: Path, bundle: Path, world: World, tmp_path: Path, made_at_ms: int) -> None:
    told: list[str] = []

    def place(each: Path) -> list[str]:
        told.clear()
        install(
            each, tmp_path / "t", public_key(world.public), start=Starter(), machine=lambda _: GOOD, say=told.append
        )
        return [line for line in told if "step back" in line]

    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(manifest | {"made_at_ms": made_at_ms}))
    sign_again(bundle, world, "bundle.json")
    assert place(made) == []
    assert place(bundle) == []
    (said,) = place(made)
    assert said.startswith("this is a step back: the bundle was made 2026-11-18 11:06 UTC, and the one in use ")
    assert place(made) == []


@pytest.mark.parametrize(
    "path", ["weights/tiny/sub/weights.bin", "configs/policies/default.yaml", "requirements/cpu.lock"]
)
def test_bytes_are_checked_while_they_are_copied(bundle: Path, world: World, tmp_path: Path, path: str) -> None:
    data = (bundle / path).read_bytes()
    (bundle / path).write_bytes(data[:-1] + b"?")
    start = Starter()
    with pytest.raises(BundleRefused, match=f"{path} has changed"):
        put(bundle, tmp_path / "target", world, start)
    assert not (tmp_path / "target" / "current").exists()
    assert start.commands == [], "nothing of the bundle ran"
    (bundle / path).write_bytes(data)
    assert put(bundle, tmp_path / "target", world).fresh


def test_somebody_else_s_bundle_leaves_no_trace(made: Path, stranger: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="no signature"):
        install(made, tmp_path / "target", public_key(stranger), start=Starter(), machine=lambda _: GOOD)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (Machine("3.12", "x86_64", "2.36", ()), "for Python 3.11, and this is 3.12"),
        (Machine("3.11", "aarch64", "2.36", ()), "for x86_64, and this is aarch64"),
        (Machine("3.11", "x86_64", "2.28", ()), "glibc 2.31 or newer, and this has 2.28"),
        (Machine("3.11", "x86_64", None, ()), "this has another C library"),
        (Machine("3.11", "x86_64", "2.36", ("libnuma.so.1",)), "libnuma.so.1 is missing"),
    ],
    ids=["python", "machine", "old glibc", "no glibc", "library"],
)
def test_a_machine_that_does_not_fit_is_told_why(
    made: Path, world: World, tmp_path: Path, machine: Machine, message: str
) -> None:
    with pytest.raises(BundleRefused, match=message):
        put(made, tmp_path / "target", world, machine=machine)
    assert not (tmp_path / "target").exists()


def test_the_script_says_so_before_pip_finds_no_wheel(made: Path, world: World, tmp_path: Path) -> None:
    (tmp_path / "uname").write_text("#!/bin/sh\necho Linux aarch64\n")
    (tmp_path / "uname").chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(made / "install.sh"), str(world.public), str(tmp_path / "target")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": "/bin/false"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "gatehouse: the bundle is for Linux x86_64, and this is Linux aarch64\n"
    assert not (tmp_path / "target").exists()


def test_a_disk_that_is_too_small_is_seen_before_anything_is_copied(bundle: Path, world: World, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["models"][0]["bytes"] = 10**18
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    sign_again(bundle, world, "bundle.json")
    with pytest.raises(BundleRefused, match=r"GiB free, and the bundle needs 931322574\.6 GiB"):
        put(bundle, tmp_path / "target", world)
    assert not (tmp_path / "target" / "releases").exists()


def test_what_was_cut_off_takes_no_room_from_the_second_run(
    made: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk with room for one: killed in the middle of the weights, then in the middle of the wheels."""
    capacity = 9 * 2**30
    usage = shutil.disk_usage(tmp_path)

    def disk(path: Path) -> object:
        held = sum(each.stat().st_size for each in path.rglob("*.big"))
        return usage._replace(free=capacity - held)

    monkeypatch.setattr("serve_app.bundle.install.shutil.disk_usage", disk)
    target = tmp_path / "target"
    assert put(made, target, world).fresh
    (release,) = (target / "releases").iterdir()
    (release / "installed").unlink()
    (left,) = (target / "models").iterdir()
    left.rename(left.with_name(f".{left.name}.part"))
    for folder in (release, left.with_name(f".{left.name}.part")):
        with (folder / "x.big").open("wb") as file:
            file.truncate(5 * 2**30)  # takes no room here
    assert put(made, target, world).fresh
    assert not [*target.rglob("*.big")]


@pytest.mark.parametrize("how", ["changed", "missing", "added", "link"])
def test_weights_that_are_there_already_are_not_taken_on_trust(
    made: Path, world: World, tmp_path: Path, how: str
) -> None:
    target = tmp_path / "target"
    release = put(made, target, world).release
    (place,) = (target / "models").iterdir()
    file = place / "sub" / "weights.bin"
    match how:
        case "changed":
            file.write_bytes(bytes(file.stat().st_size))
        case "missing":
            file.unlink()
        case "added":
            (place / "modeling.py").write_text("")
        case _:
            file.rename(tmp_path / "weights.bin")
            file.symlink_to(tmp_path / "weights.bin")
    (release / "installed").unlink()
    with pytest.raises(BundleRefused, match="weights.bin|modeling.py"):
        put(made, target, world)
    place.rename(tmp_path / "away")
    assert put(made, target, world).fresh


def test_the_next_command_works_whatever_the_folder_is_called(made: Path, world: World, tmp_path: Path) -> None:
    target = tmp_path / "my models; echo $HOME"
    said = put(made, target, world).command
    at = target / "current"
    assert shlex.split(said) == [
        *("cd", str(target), "&&", str(at / "venv" / "bin" / "gatehouse"), "up", "--config", str(at / "serve.yaml")),
    ]


def test_two_at_a_time_are_one_too_many(made: Path, world: World, tmp_path: Path) -> None:
    with (tmp_path / ".install.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BundleRefused, match="another installation into"):
            put(made, tmp_path, world)
    assert put(made, tmp_path, world).fresh


def test_what_is_in_the_way_stays(made: Path, world: World, tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "mine").write_text("")
    with pytest.raises(BundleRefused, match="is in the way"):
        put(made, tmp_path, world)
    assert (tmp_path / "current" / "mine").is_file()


def test_pip_really_installs_it_without_an_index(made: Path, world: World, tmp_path: Path) -> None:
    done = install(made, tmp_path / "target", public_key(world.public), machine=lambda _: GOOD, python=sys.executable)
    listed = [str(done.release / "venv" / "bin" / "python"), "-m", "pip", "list", "--format", "json"]
    names = {each["name"] for each in json.loads(subprocess.run(listed, capture_output=True, check=True).stdout)}
    assert {"plain", "deep", "torch-like", "gatehouse-serving"} <= names
    assert subprocess.run([str(done.release / "venv" / "bin" / "gatehouse"), "x"], check=False).returncode == 3


def test_pip_refuses_a_wheel_that_has_changed(bundle: Path, world: World, tmp_path: Path) -> None:
    shutil.copy(bundle / "wheels" / "deep-1.0-py3-none-any.whl", bundle / "wheels" / "plain-1.0-py3-none-any.whl")
    with pytest.raises(BundleRefused, match="pip install own.txt failed"):
        install(bundle, tmp_path / "target", public_key(world.public), machine=lambda _: GOOD)
    assert not (tmp_path / "target" / "current").exists()


def test_the_script_runs_nothing_that_was_put_beside_the_bundle(bundle: Path, world: World, tmp_path: Path) -> None:
    """`sha256sum` says nothing of files that are not on the list, and Python looks into its working directory."""
    for name in ("venv.py", "pip.py", "serve_app.py"):
        (bundle / name).write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    done = subprocess.run(
        ["/bin/sh", str(bundle / "install.sh"), str(world.public), str(tmp_path / "target")],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Signature Verified Successfully" in done.stdout, "what is on the list is good"
    assert not (tmp_path / "ran").exists()
