"""A model with two revisions: `gatehouse doctor` looks at the weights of both, and at the room for both."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deployments.engine.options import EngineSettings
from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import Artefact, Kind
from serve_app.cli import doctor
from serve_app.cli.diagnosis import GIB, Check, ModelState, PortState, Status
from serve_app.cli.doctor_candidates import Candidate, Gpus, RevisionState, candidate_checks
from serve_app.cli.doctor_weights import candidates, missing_file
from serve_app.config import ROOT, AppConfig, parse_config
from tests.unit.doctor.test_diagnosis import CPU, CUDA, GOOD, GOOD_CUDA

BASE = {"model": "m", "revision": "r1", "max_num_seqs": 8}


def checkpoint(folder: Path, weights: bytes = b"first") -> Path:
    """A folder that looks like a checkpoint of two shards."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for name in shards.values():
        (folder / name).write_bytes(weights + name.encode())
    return folder


def config(engine: dict[str, Any], candidate: dict[str, Any]) -> AppConfig:
    model = {"tier": "20b", "engine": engine, "candidate": candidate}
    return parse_config({"models": [model], "tenancy": {}}, "test")


def found(app: AppConfig, read: bool = True) -> Candidate:
    (one,) = candidates(app, doctor.model_states(app), doctor.checkpoint_folders(app), read)
    return one


@pytest.fixture
def pair(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """An engine, and a candidate with other weights that is what was registered."""
    first, second = checkpoint(tmp_path / "first"), checkpoint(tmp_path / "second", b"second")
    revision = revision_of(scan(Kind.MODEL, "m", second))
    return {**BASE, "source": str(first)}, {**BASE, "source": str(second), "revision": revision}


def test_both_checkpoints_are_looked_at(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    app = config(*pair)
    assert doctor.model_states(app) == {"m": ModelState.READY, "m:candidate": ModelState.READY}
    (Path(pair[1]["source"]) / "model-00002-of-00002.safetensors").unlink()
    assert doctor.model_states(app) == {"m": ModelState.READY, "m:candidate": ModelState.INCOMPLETE}
    shutil.rmtree(pair[1]["source"])
    assert doctor.model_states(app)["m:candidate"] is ModelState.MISSING
    beside = found(app)
    assert beside.revision is RevisionState.UNREAD
    assert beside.missing_bytes == sum(each.stat().st_size for each in Path(pair[0]["source"]).iterdir())
    assert beside.free_bytes > 0


def _nothing(folder: Path) -> None:
    del folder


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _plain(folder: Path) -> None:
    """One file of weights, and no index."""
    for each in folder.glob("model*"):
        each.unlink()
    (folder / "model.safetensors").write_bytes(b"x")


def _older(folder: Path) -> None:
    """Weights and words in the forms of before safetensors."""
    _no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "tokenizer.json").rename(folder / "vocab.txt")


def _empty_shard(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")


def _bad_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 1}')


def _no_weights(folder: Path) -> None:
    for each in folder.glob("model*"):
        each.unlink()


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (_nothing, None),
        (_plain, None),
        (_older, None),
        (_without("config.json"), "config.json"),
        (_without("tokenizer.json"), "tokenizer.json"),
        (_without("model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors"),
        (_empty_shard, "model-00001-of-00002.safetensors"),
        (_bad_index, "model.safetensors.index.json"),
        (_no_weights, "*.safetensors"),
    ],
    ids=["whole", "plain", "older", "config", "tokenizer", "shard", "empty", "index", "none"],
)
def test_what_a_checkpoint_lacks_is_named(tmp_path: Path, change: Callable[[Path], None], lacking: str | None) -> None:
    folder = checkpoint(tmp_path / "x")
    change(folder)
    assert missing_file(folder, EngineSettings(source=str(folder), **BASE)) == lacking


def test_weights_that_an_engine_makes_up_need_no_files(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "x")
    _no_weights(folder)
    assert (
        missing_file(folder, EngineSettings(source=str(folder), engine_args={"load_format": "dummy"}, **BASE)) is None
    )


# --- the revision ------------------------------------------------------------------------------------------------


def test_a_candidate_is_what_its_revision_says_until_a_byte_changes(
    pair: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    app = config(*pair)
    assert found(app).revision is RevisionState.SAME
    assert found(app, read=False).revision is RevisionState.UNREAD
    (Path(pair[1]["source"]) / "model-00001-of-00002.safetensors").write_bytes(b"another")
    assert found(app).revision is RevisionState.OTHER


def test_what_cannot_be_registered_is_said(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    folder = Path(pair[1]["source"])
    (folder / "more.txt").symlink_to(folder / "config.json")
    one = found(config(*pair))
    assert (one.revision, one.why) == (RevisionState.REFUSED, "'more.txt' is not a plain file.")


@pytest.mark.parametrize("named", [{}, {"max_num_seqs": 16}, {"max_num_seqs": 16, "enforce_eager": True}])
def test_settings_of_the_artefact_are_among_those_that_differ(
    pair: tuple[dict[str, Any], dict[str, Any]], named: dict[str, Any]
) -> None:
    engine, candidate = pair
    made = scan(Kind.MODEL, "m", Path(candidate["source"]), json.dumps(named))
    candidate |= {"max_num_seqs": 16, "enforce_eager": True, "replicas": 2, "revision": revision_of(made)}
    assert found(config(engine, candidate)).revision is RevisionState.SAME
    candidate["revision"] = "ab" * 32
    assert found(config(engine, candidate)).revision is RevisionState.UNTOLD


def test_settings_alone_over_the_same_files(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    engine, _ = pair
    revision = revision_of(Artefact(Kind.ENGINE, "m", settings='{"max_num_seqs": 16}'))
    app = config(engine, {**engine, "max_num_seqs": 16, "revision": revision})
    assert found(app).revision is RevisionState.SAME


def test_a_candidate_without_weights_is_told_by_its_settings() -> None:
    clock = {"kind": "synthetic", "model": "m", "revision": "r1", "token_ms": 1.0}
    revision = revision_of(Artefact(Kind.ENGINE, "m", settings='{"token_ms": 2.0}'))
    one = found(config(clock, {**clock, "token_ms": 2.0, "revision": revision}))
    assert (one.revision, one.wanted_bytes) == (RevisionState.SAME, 0)


def test_a_name_in_a_cache_cannot_be_compared(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert found(config(pair[0], {**pair[1], "source": "org/name"})).revision is RevisionState.UNTOLD


# --- the conclusions ---------------------------------------------------------------------------------------------

SAME = Candidate("m", RevisionState.SAME)
NO_GPU = Gpus()


def said(one: Candidate, wanted: Gpus = NO_GPU, cuda: bool = False, **facts: Any) -> dict[str, Check]:
    state = replace(GOOD_CUDA if cuda else GOOD, **facts)
    return {check.name: check for check in candidate_checks(state, CUDA if cuda else CPU, [one], wanted)}


def test_without_a_candidate_nothing_is_said() -> None:
    assert candidate_checks(GOOD, CPU, [], Gpus()) == ()


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        (RevisionState.SAME, Status.OK, ""),
        (RevisionState.UNREAD, Status.OK, ""),
        (RevisionState.UNTOLD, Status.WARN, "gatehouse rollout start compares"),
        (RevisionState.OTHER, Status.FAIL, "--target m --path SOURCE --dry-run"),
        (RevisionState.REFUSED, Status.FAIL, "a link"),
    ],
)
def test_a_revision_is_judged(state: RevisionState, status: Status, words: str) -> None:
    check = said(Candidate("m", state, why="a link."))["revisions"]
    assert (check.status, bool(check.advice)) == (status, status is not Status.OK)
    assert words in check.advice


def test_both_are_in_memory_at_once() -> None:
    one = replace(SAME, wanted_bytes=2 * GIB)
    assert said(one)["both revisions"].status is Status.OK
    short = said(one, memory_bytes=9 * GIB)["both revisions"]  # 6.5, and 2, and the process of an engine
    assert (short.status, "9.7 GiB needed" in short.seen) == (Status.FAIL, True)
    assert said(replace(SAME), memory_bytes=7 * GIB)["both revisions"].status is Status.OK  # a token clock
    assert said(one, memory_bytes=GIB, port=PortState.GATEHOUSE)["both revisions"].status is Status.OK


def test_what_is_to_be_copied_must_find_room() -> None:
    one = replace(SAME, missing_bytes=13 * GIB, free_bytes=20 * GIB)
    assert said(one)["room"].status is Status.OK
    assert said(replace(one, free_bytes=12 * GIB))["room"].status is Status.FAIL
    assert "room" not in said(SAME)


@pytest.mark.parametrize(
    ("wanted", "status", "words"),
    [
        (Gpus(1, 20 * GIB), Status.OK, ""),
        (Gpus(2, 20 * GIB), Status.WARN, "wait for ever"),
        (Gpus(1, 90 * GIB), Status.FAIL, "tensor_parallel_size"),
        (Gpus(1, 20 * GIB, ("m",)), Status.FAIL, "gpu_memory_utilization"),
    ],
    ids=["room", "one-gpu", "too-large", "crowded"],
)
def test_gpus_must_hold_both(wanted: Gpus, status: Status, words: str) -> None:
    check = said(SAME, wanted, cuda=True)["both revisions"]
    assert check.status is status
    assert words in check.advice


def test_what_engines_want_of_gpus_is_read_from_the_configuration(
    pair: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    engine, candidate = pair

    def wanted(**change: Any) -> Gpus:
        app = config({**engine, **change}, {**candidate, **change})
        return doctor.wanted_gpus(app, doctor.checkpoint_folders(app))

    assert wanted().devices == 2
    assert wanted(tensor_parallel_size=2, scaling={"min_replicas": 2, "max_replicas": 4}).devices == 8
    weights = sum(each.stat().st_size for each in Path(candidate["source"]).iterdir())
    assert wanted(gpu_memory_utilization=0.5, kv_cache_memory_bytes=1 << 20).bytes_each == round(
        (weights + (1 << 20)) / 0.5
    )
    assert wanted(num_gpus=0.5).crowded == ("m",)
    assert wanted(num_gpus=0.5, gpu_memory_utilization=0.45) == replace(
        wanted(num_gpus=0.5, gpu_memory_utilization=0.45), devices=1.0, crowded=()
    )


@pytest.mark.enable_socket
def test_the_command_fails_for_another_revision(pair: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "configs" / "serve.local.yaml").read_text())
    args = document["applications"][0]["args"]
    args["state_dir"] = str(tmp_path / "state")
    args["models"] = [{"tier": "20b", "engine": pair[0], "candidate": pair[1]}]
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(document))

    def line(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(doctor.app, ["--config", str(file), "--json", *words])
        (check,) = [each for each in json.loads(done.stdout)["checks"] if each["name"] == "revisions"]
        return check

    assert (line()["status"], line()["seen"]) == ("ok", "m: the candidate is what its revision says")
    (Path(pair[1]["source"]) / "config.json").write_text("{ }")
    assert line()["status"] == "fail"
    assert line("--quick")["status"] == "ok"
