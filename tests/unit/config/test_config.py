from pathlib import Path

import pytest
import yaml

from serve_app.cli.schema import schema_text
from serve_app.config import ROOT, AppConfig, ConfigError, find, load_serve_file, parse_config

LOCAL = ROOT / "configs" / "serve.local.yaml"


def args() -> dict:
    return yaml.safe_load(LOCAL.read_text())["applications"][0]["args"]


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
        (lambda a: a.update(audit_replicas={"replicas": 2}), "exactly one writer"),
        (lambda a: a.update(ingress={"principal_ttl_s": 60}), "principal_ttl_s"),
    ],
)
def test_a_wrong_configuration_is_one_sentence_that_names_the_key(change, words: str) -> None:
    document = args()
    change(document)
    with pytest.raises(ConfigError) as caught:
        parse_config(document, "file.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


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
