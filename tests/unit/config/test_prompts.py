"""Files of prompts: what is read of them, when they are refused, and what has revisions in a configuration."""

from pathlib import Path
from typing import Any

import pytest

from deployments.errors import InvalidRequest
from deployments.ingress.prompting import Prompt
from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import Family, Kind
from serve_app.app import chosen, parts, several
from serve_app.config import AppConfig, ConfigError, parse_config
from serve_app.prompts import MOST_BYTES, load_prompt, prompts_of

MODEL = "demo-20b"


def config(**model: Any) -> AppConfig:
    engine = {"kind": "synthetic", "model": MODEL, "revision": "r1", "max_model_len": 4096}
    return parse_config({"models": [{"tier": "20b", "engine": engine, **model}]}, "the test")


def prompt(path: Path, text: str | bytes, revision: str | None = None) -> dict[str, str]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return {"path": str(path), "revision": revision or revision_of(scan(Kind.PROMPT, MODEL, path))}


def test_both_prompts_of_a_model_are_read_and_known_by_their_revisions(tmp_path: Path) -> None:
    old, new = prompt(tmp_path / "old.txt", " Be brief.\n", "p1"), prompt(tmp_path / "new.txt", "Be clear: α.")
    found = config(prompt=old, candidate_prompt=new)
    assert prompts_of(found) == {MODEL: (Prompt("p1", "Be brief."), Prompt(new["revision"], "Be clear: α."))}
    assert several(found) == {(Family.PROMPT, MODEL): ("p1", new["revision"])}
    assert [(each.family, each.revision, each.source) for each in chosen(found) if each.family is Family.PROMPT] == [
        (Family.PROMPT, "p1", str(tmp_path / "old.txt")),
        (Family.PROMPT, new["revision"], str(tmp_path / "new.txt")),
    ]
    assert parts(found).prompts == prompts_of(found)


def test_a_first_prompt_is_rolled_out_from_none(tmp_path: Path) -> None:
    new = prompt(tmp_path / "new.txt", "Be clear.")
    found = config(candidate_prompt=new)
    assert several(found) == {(Family.PROMPT, MODEL): ("none", new["revision"])}
    assert prompts_of(found)[MODEL][0] == Prompt("none", "")


def test_no_prompt_is_called_what_none_is_called(tmp_path: Path) -> None:
    """Its rollback would lead to nothing, and its evaluation would compare with nothing."""
    with pytest.raises(ConfigError, match="prompt.revision must not be 'none'"):
        config(prompt=prompt(tmp_path / "old.txt", "Be brief.", "none"))


def test_a_configuration_without_prompts_has_none() -> None:
    assert prompts_of(config()) == {}
    assert several(config()) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"a\x00b", "has control characters"),
        (b"x" * (MOST_BYTES + 1), "has more than 65536 bytes"),
        (b"x" * 9_000, "more than half of its window"),
    ],
    ids=["empty", "blank", "binary", "control", "large", "window"],
)
def test_what_is_no_prompt_stops_the_start(text: bytes, says: str, tmp_path: Path) -> None:
    given = prompt(tmp_path / "p.txt", text, "p1")
    with pytest.raises(ConfigError, match=says):
        prompts_of(config(prompt=given))


def test_a_file_that_is_another_revision_stops_the_start(tmp_path: Path) -> None:
    given = prompt(tmp_path / "p.txt", "Be brief.")
    prompts_of(config(candidate_prompt=given))
    (tmp_path / "p.txt").write_text("Be rude.")
    for name in ("prompt", "candidate_prompt"):
        with pytest.raises(ConfigError, match="is not the revision"):
            prompts_of(config(**{name: given}))
    (tmp_path / "p.txt").unlink()
    with pytest.raises(ConfigError, match="does not exist"):
        prompts_of(config(candidate_prompt=given))


def test_an_artefact_is_read_as_the_configuration_s_file_is(tmp_path: Path) -> None:
    folder = tmp_path / "of-one-file"
    folder.mkdir()
    (folder / "p.txt").write_text("Be brief.\n")
    for path in (folder, folder / "p.txt"):
        assert load_prompt(scan(Kind.PROMPT, MODEL, path)) == "Be brief."
    (folder / "p.txt").write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match="is not UTF-8"):
        load_prompt(scan(Kind.PROMPT, MODEL, folder))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"candidate_prompt": {"path": "x", "revision": "p2"}}, "64 hex digits"),
        ({"prompt": {"path": "x", "revision": "a" * 64}, "candidate_prompt": {"path": "y", "revision": "a" * 64}},
         "must be another one"),
        ({"prompt": {"path": "x"}}, "is missing"),
        ({"prompt": {"path": "", "revision": "p1"}}, "at least 1"),
    ],
    ids=["no-digest", "the-same", "unnamed", "nowhere"],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(model: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(**model)
