import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.demo import checkpoint
from serve_app.demo.checkpoint import WeightsDamaged, check_weights, expand, is_ready, read_manifest
from serve_app.demo.recipe import DEMO_MODELS, RECIPE_VERSION, DemoName

MOST_BYTES = 1_500_000


class Tokenizer:
    """Writes a stand-in for tokenizer.json and counts how often it was asked to."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self, vocabulary_file: Path, folder: Path) -> None:
        self.built += 1
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Compact weights of two models with two known ids and one hidden unit."""
    models: dict[str, object] = {}
    for name in DEMO_MODELS:
        folder = tmp_path / "weights" / name
        folder.mkdir(parents=True)
        rows = torch.tensor([[1.0], [2.0]], dtype=torch.bfloat16)
        save_file({"model.embed_tokens.weight": rows, "lm_head.weight": rows + 1}, folder / "model.safetensors")
        (folder / "ids.json").write_text('{"read":[[5,6],[200012]],"written":[5,7]}', encoding="utf-8")
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        models[name] = {"seed": 0, "steps": 1, "sha256": digests, "evaluation": {}}
    manifest = {"recipe_version": RECIPE_VERSION, "models": models}
    (tmp_path / "weights" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path / "weights"


def build(name: DemoName, models: Path, weights: Path, tokenizer: Tokenizer, *, verify: bool = False) -> list[str]:
    stages: list[str] = []
    fractions: list[float] = []

    def report(stage: str, fraction: float) -> None:
        stages.append(stage)
        fractions.append(fraction)

    folder = expand(name, models, models, report, weights_dir=weights, verify=verify, build_tokenizer=tokenizer)
    assert folder == models / name
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    return stages


def test_known_ids_get_their_rows_and_all_others_zero(tmp_path: Path, weights: Path) -> None:
    build("demo-20b", tmp_path / "models", weights, Tokenizer())
    state = load_file(tmp_path / "models/demo-20b/model.safetensors")
    embedding, head = state["model.embed_tokens.weight"], state["lm_head.weight"]
    assert embedding.shape == head.shape == (201_088, 1)
    assert embedding[[5, 6, 200_012]].flatten().tolist() == [1.0, 1.0, 2.0]
    assert head[[5, 7]].flatten().tolist() == [2.0, 3.0]
    assert (embedding.count_nonzero(), head.count_nonzero()) == (3, 2)
    generation = json.loads((tmp_path / "models/demo-20b/generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == [200_002, 199_999, 200_012]
    assert "demonstration" in (tmp_path / "models/demo-20b/README.md").read_text(encoding="utf-8")


def test_a_ready_checkpoint_is_kept_and_its_tokenizer_shared(tmp_path: Path, weights: Path) -> None:
    models, tokenizer = tmp_path / "models", Tokenizer()
    assert not is_ready("demo-20b", models, weights_dir=weights)
    build("demo-20b", models, weights, tokenizer)
    assert is_ready("demo-20b", models, weights_dir=weights, verify=True)
    assert build("demo-20b", models, weights, tokenizer) == ["ready"]
    build("demo-120b", models, weights, tokenizer)
    assert tokenizer.built == 1
    assert sorted(path.name for path in models.iterdir()) == ["demo-120b", "demo-20b"]


@pytest.mark.parametrize("harm", ["shorten", "remove", "stamp"])
def test_a_damaged_checkpoint_is_rebuilt(tmp_path: Path, weights: Path, harm: str) -> None:
    models, tokenizer = tmp_path / "models", Tokenizer()
    build("demo-20b", models, weights, tokenizer)
    folder = models / "demo-20b"
    if harm == "shorten":
        (folder / "model.safetensors").write_bytes(b"")
    elif harm == "remove":
        (folder / "config.json").unlink()
    else:
        (folder / "gatehouse-demo.json").write_text("{", encoding="utf-8")
    assert not is_ready("demo-20b", models, weights_dir=weights)
    build("demo-20b", models, weights, tokenizer)
    assert is_ready("demo-20b", models, weights_dir=weights, verify=True)


def test_a_changed_byte_is_found_by_verify(tmp_path: Path, weights: Path) -> None:
    models = tmp_path / "models"
    build("demo-20b", models, weights, Tokenizer())
    path = models / "demo-20b/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert is_ready("demo-20b", models, weights_dir=weights)
    assert not is_ready("demo-20b", models, weights_dir=weights, verify=True)
    assert build("demo-20b", models, weights, Tokenizer(), verify=True) != ["ready"]
    assert is_ready("demo-20b", models, weights_dir=weights, verify=True)


def test_a_stale_checkpoint_is_rebuilt(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models"
    build("demo-20b", models, weights, Tokenizer())
    monkeypatch.setattr(checkpoint, "_EXPANSION_VERSION", 999)
    assert not is_ready("demo-20b", models, weights_dir=weights)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, weights: Path) -> None:
    def fail(_vocabulary: Path, _folder: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        expand("demo-20b", tmp_path / "models", tmp_path, lambda *_: None, weights_dir=weights, build_tokenizer=fail)
    assert list((tmp_path / "models").iterdir()) == []


def test_damaged_compact_weights_are_refused(tmp_path: Path, weights: Path) -> None:
    (weights / "demo-20b" / "ids.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WeightsDamaged, match=r"demo-20b/ids\.json"):
        build("demo-20b", tmp_path / "models", weights, Tokenizer())


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_the_committed_weights_are_those_of_the_manifest(name: DemoName) -> None:
    check_weights(name)
    manifest = read_manifest()
    assert manifest.recipe_version == RECIPE_VERSION
    assert set(manifest.models[name].sha256) == {"model.safetensors", "ids.json"}
    assert sum(path.stat().st_size for path in (checkpoint.WEIGHTS_DIR / name).iterdir()) < MOST_BYTES
