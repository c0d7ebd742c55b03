from pathlib import Path
from typing import get_args

import pytest
import yaml

from deployments.ingress.dialects.fim import PRESETS, FimTemplate
from serve_app.cli.schema import schema_text
from serve_app.config import (
    ROOT,
    AppConfig,
    ConfigError,
    FimPreset,
    FimSettings,
    find,
    load_serve_file,
    parse_config,
)

LOCAL = ROOT / "configs" / "serve.local.yaml"


def args() -> dict:
    return yaml.safe_load(LOCAL.read_text())["applications"][0]["args"]


OLLAMA = {"kind": "openai", "model": "small", "revision": "r1", "base_url": "http://127.0.0.1:11434/v1"}
CANDIDATE = {"revision": "c" * 64, "max_num_seqs": 8}


def with_candidate(**fields: object):
    """A change that gives the first model of the file a candidate."""

    def change(a: dict) -> None:
        first = a["models"][0]
        first["candidate"] = {**first["engine"], **CANDIDATE, **fields}

    return change


OWN = {"prefix": "<P>", "suffix": "<S>", "middle": "<M>"}


def with_model(**fields: object):
    """A change that adds a model to the ones of the file."""
    return lambda a: a["models"].append({"engine": OLLAMA, **fields})


def test_the_committed_schema_is_the_code() -> None:
    assert (ROOT / "configs" / "app.schema.json").read_text() == schema_text()


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("serve.*.yaml")), ids=lambda p: p.name)
def test_every_shipped_profile_loads(file: Path) -> None:
    loaded = load_serve_file(file)
    assert loaded.app.models
    assert AppConfig.model_validate(loaded.app.model_dump(mode="json")) == loaded.app


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.update(stat_dir="x"), "unknown key 'stat_dir'"),
        (lambda a: a.pop("models"), "'models' is missing"),
        (lambda a: a.update(models=[]), "'models'"),
        (lambda a: a["models"][0]["engine"].update(max_model_len="big"), "models.0.engine.max_model_len"),
        (lambda a: a["models"][0]["engine"].update(trust_remote_code=True), "unknown key"),
        (lambda a: a["models"][1].update(tier="20b"), "same tier"),
        (lambda a: a["models"][1]["engine"].update(model="demo-20b"), "same name"),
        (lambda a: a["models"][0]["engine"].update(model="auto"), "'auto'"),
        (lambda a: a.update(models=a["models"][1:]), "tier 20b"),
        (lambda a: a.update(gate_replicas={"replicas": 2}), "SQLite"),
        (lambda a: a.update(ledger_replicas={"replicas": 2}), "one process counts"),
        (lambda a: a.update(rollout_replicas={"replicas": 2}), "one process drives"),
        (with_candidate(revision="r2"), "gatehouse rollout register"),
        (with_candidate(revision="demo-1"), "gatehouse rollout register"),
        (with_candidate(model="other"), "the same `model`"),
        (with_candidate(kind="synthetic"), "unknown key 'models.0.candidate"),
        (with_candidate(max_model_len=8192), "must not be smaller"),
        (with_candidate(scaling={"min_replicas": 0, "max_replicas": 2}), "must not scale to zero"),
        (with_candidate(surprise=1), "unknown key 'models.0.candidate.surprise'"),
        (
            with_model(
                candidate={
                    **OLLAMA,
                    "revision": "c" * 64,
                    "base_url": "https://far.example/v1",
                    "allowed_hosts": ["far.example"],
                }
            ),
            "must not leave the premises",
        ),
        (lambda a: a.update(audit_replicas={"replicas": 2}), "exactly one writer"),
        (lambda a: a.update(ingress={"principal_ttl_s": 60}), "principal_ttl_s"),
        (lambda a: [model.pop("tier") for model in a["models"]], "tier 20b"),
        (lambda a: a.update(fim_model="demo-20b"), "fim_model must name a model that has `fim`"),
        (lambda a: a.update(fim_model="nobody"), "fim_model must name a model that has `fim`"),
        (lambda a: a.update(fim_emulation="perhaps"), "'fim_emulation'"),
        (with_model(embeddings=True), "'models.2': engine.paths must hold /v1/embeddings"),
        (with_model(embeddings=True, tier="120b"), "'models.2': a model with `embeddings` has no `tier`"),
        (with_model(embeddings=True, fim=OWN), "'models.2': a model has either `embeddings` or `fim`"),
        (
            with_model(embeddings=True, engine={"kind": "synthetic", "model": "s", "revision": "r1"}),
            "'models.2': an engine of kind synthetic has no `embeddings`",
        ),
        (
            with_model(fim=OWN, engine={**OLLAMA, "paths": ["/v1/chat/completions"]}),
            "'models.2': engine.paths must hold /v1/completions",
        ),
        (with_model(fim={}), "'models.2.fim': set `preset`, or all of"),
        (with_model(fim={"prefix": "<P>", "suffix": "<S>"}), "'models.2.fim': set `preset`, or all of"),
        (with_model(fim={**OWN, "preset": "codellama"}), "'models.2.fim': set either `preset`, or"),
        (with_model(fim={"preset": "codestral", "suffix_first": True}), "'models.2.fim': set either `preset`, or"),
        (with_model(fim={**OWN, "suffix": ""}), "'models.2.fim': `prefix` and `suffix` must not be empty"),
        (with_model(fim={"preset": "gpt-oss"}), "'models.2.fim.preset'"),
        (with_model(fim={**OWN, "stop": [""]}), "'models.2.fim.stop.0'"),
    ],
)
def test_a_wrong_configuration_is_one_sentence_that_names_the_key(change, words: str) -> None:
    document = args()
    change(document)
    with pytest.raises(ConfigError) as caught:
        parse_config(document, "file.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def parsed(change) -> AppConfig:
    document = args()
    change(document)
    return parse_config(document, "file.yaml")


def test_a_model_without_a_tier_is_just_named() -> None:
    model = parsed(with_model()).models[-1]
    assert (model.tier, model.fim, model.embeddings) == (None, None, False)


def test_two_models_without_a_tier_are_not_two_of_the_same() -> None:
    config = parsed(lambda a: a["models"].extend([{"engine": OLLAMA}, {"engine": {**OLLAMA, "model": "other"}}]))
    assert [model.tier for model in config.models[2:]] == [None, None]


def test_an_embedding_model_needs_no_tier() -> None:
    config = parsed(with_model(embeddings=True, engine={**OLLAMA, "paths": ["/v1/embeddings"]}))
    assert config.models[-1].embeddings


def test_the_model_that_fills_in_the_middle_may_have_a_tier_or_none() -> None:
    assert parsed(lambda a: (with_model(fim=OWN)(a), a.update(fim_model="small"))).fim_model == "small"
    assert parsed(lambda a: (a["models"][0].update(fim=OWN), a.update(fim_model="demo-20b"))).fim_model == "demo-20b"


def test_every_preset_is_a_template_and_every_template_a_preset() -> None:
    assert set(get_args(FimPreset)) == set(PRESETS)
    for preset, template in PRESETS.items():
        assert FimSettings.model_validate({"preset": preset}).template() == template


def test_a_presets_stops_can_be_extended() -> None:
    template = FimSettings(preset="codestral", stop=["\n\n"]).template()
    assert template.stop == (*PRESETS["codestral"].stop, "\n\n")
    assert template.suffix_first


def test_a_template_of_ones_own() -> None:
    template = FimSettings(**OWN, stop=["<E>"], suffix_first=True).template()
    assert template == FimTemplate("<P>", "<S>", "<M>", ("<E>",), suffix_first=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [("a: [", "not YAML"), ("- 1", "exactly one application"), ("applications: []", "exactly one application")],
)
def test_files_that_are_no_serve_files(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=words):
        load_serve_file(file)


def test_missing_files() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        find("nowhere.yaml")
