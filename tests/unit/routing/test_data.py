import gzip
import hashlib
import json
from pathlib import Path

import pytest

from serve_app.routing.data import (
    CASES,
    GSM8K,
    INCIDENTS,
    MMLU,
    MTBENCH,
    PAIR_SETS,
    TIERS,
    DataFolder,
    DataRefused,
    Labelled,
    deduplicate,
    key_of,
    read_own,
)

DATA = Path(__file__).parents[4] / "shared" / "data" / "router"
needs_data = pytest.mark.skipif(
    not (DATA / "MANIFEST.json").is_file(),
    reason="the public label sets are not beside the repository (../shared/data/router)",
)

PAIR = {"weak": "small", "strong": "big", "weak_ok": 1, "strong_ok": 0}
ROWS: dict[str, list[dict]] = {
    MMLU: [{"id": "a", "prompt": "What is up?", "task": "sky", "split": "dev", **PAIR}],
    GSM8K: [{"id": "b", "prompt": "2 + 2?", "weak_answer": "4", **PAIR}],
    MTBENCH: [{"id": "c", "prompt": "Write.", "weak": "s", "strong": "b", "weak_score": 6.5, "strong_score": 9.0}],
    TIERS: [{"id": "d", "prompt": "hi", "tier": "SIMPLE", "category": "greeting", "lang": "en", "split": "train"}],
    INCIDENTS: [{"id": "e", "prompt": "Why?", "task": "task_7", "system": "Bank", "agent_score": 0.5}],
    CASES: [{"id": "f", "prompt": "What is DNA?", "set": "domain", "label": "biology"}],
}


def packed(rows: list[dict]) -> tuple[bytes, bytes]:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return content, gzip.compress(content, mtime=0)


def folder(path: Path, **changes: object) -> Path:
    """A folder with all six sets; `changes` replace fields of the first entry of the manifest."""
    manifest = []
    for name, rows in ROWS.items():
        content, data = packed(rows)
        (path / f"{name}.jsonl.gz").write_bytes(data)
        manifest.append(
            {
                "file": f"{name}.jsonl.gz",
                "rows": len(rows),
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "sha256_uncompressed": hashlib.sha256(content).hexdigest(),
                "origin": "here", "commit": "0" * 40, "path": "p", "licence": "MIT", "copyright": "", "columns": ["id"],
                "selection": "all", "use": "test", "note": "",
            }
        )  # fmt: skip
    manifest[0] |= changes
    (path / "MANIFEST.json").write_text(json.dumps(manifest), "utf-8")
    return path


def test_every_set_is_read(tmp_path: Path) -> None:
    data = DataFolder.open(folder(tmp_path))
    (mmlu,), (gsm8k,), (graded,) = (data.labelled(name) for name in PAIR_SETS)
    assert (mmlu.task, mmlu.weak_ok, mmlu.strong_ok, mmlu.helps, mmlu.graded) == ("sky", 1.0, 0.0, False, False)
    assert gsm8k.weak_answer == "4"
    assert (graded.weak_ok, graded.strong_ok, graded.graded, graded.helps) == (0.65, 0.9, True, True)
    assert data.tiers()[0].category == "greeting"
    assert data.incidents()[0].agent_score == 0.5
    assert data.cases()[0].label == "biology"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rows": 2}, "has 1 rows and MANIFEST.json says 2"),
        ({"sha256": "0" * 64}, "is not the file that MANIFEST.json describes"),
        ({"sha256_uncompressed": "0" * 64}, "does not hold the rows"),
        ({"file": "gone.jsonl.gz"}, "does not list routellm_mmlu"),
        ({"file": "../up.jsonl.gz"}, "is not a manifest: 0.file"),
        ({"extra": 1}, "is not a manifest: 0.extra"),
        ({"rows": "1"}, "is not a manifest: 0.rows"),
    ],
    ids=["rows", "digest", "content", "missing", "path", "unknown-key", "type"],
)
def test_a_folder_that_is_not_what_its_manifest_says_is_refused(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(DataRefused, match=complaint):
        DataFolder.open(folder(tmp_path, **changes)).labelled(MMLU)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weak_ok": 2}, "line 2: weak_ok"),
        ({"weak_ok": True}, "line 2: weak_ok"),
        ({"note": "x"}, "line 2: note"),
        ({"split": "test"}, "line 2: split"),
        ({"prompt": ""}, "line 2: prompt"),
    ],
    ids=["range", "type", "unknown-key", "held-out-split", "empty"],
)
def test_a_row_that_is_not_as_it_should_be_is_named_and_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], complaint: str
) -> None:
    secret = {**ROWS[MMLU][0], "prompt": "private words"}
    monkeypatch.setitem(ROWS, MMLU, [ROWS[MMLU][0], secret | change])
    with pytest.raises(DataRefused, match=complaint) as refused:
        DataFolder.open(folder(tmp_path)).labelled(MMLU)
    assert "private words" not in str(refused.value)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    file = tmp_path / f"{MMLU}.jsonl.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    manifest = json.loads((tmp_path / "MANIFEST.json").read_text())
    manifest[0]["sha256"] = hashlib.sha256(whole[:-9]).hexdigest()
    (tmp_path / "MANIFEST.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(DataRefused, match="not a whole gzip file"):
        DataFolder.open(tmp_path).labelled(MMLU)


def test_a_missing_folder_and_a_set_without_outcomes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="cannot read"):
        DataFolder.open(tmp_path / "none")
    with pytest.raises(DataRefused, match="holds no outcomes of two models"):
        DataFolder.open(folder(tmp_path)).labelled(TIERS)


@pytest.mark.parametrize(
    ("other", "same"),
    [("what IS  up", True), ("What is up?!", True), ("What is down?", False), ("What_is up?", False)],
)
def test_near_equal_questions_share_a_key(other: str, same: bool) -> None:
    assert (key_of("What is up?") == key_of(other)) is same


def row(number: int, prompt: str, weak_ok: float = 1.0, task: str = "") -> Labelled:
    return Labelled(str(number), key_of(prompt), "s", prompt, weak_ok, 1.0, task=task)


def test_repeated_questions_are_dropped_over_sets_and_those_kept_apart_too() -> None:
    rows = [row(0, "One?"), row(1, "one"), row(2, "ONE!", weak_ok=0.0), row(3, "Two?"), row(4, "Three?")]
    found = deduplicate(rows, apart_from=[key_of("three")])
    assert [each.row_id for each in found.rows] == ["0", "3"]
    assert (found.repeated, found.contradicting, found.shared) == (2, 1, 1)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_labels_of_ones_own_are_read(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"mine{ending}"
    rows = [
        {"id": "1", "prompt": "p", "weak_ok": False, "strong_ok": True, "task": "t"},
        {"id": "2", "prompt": "q", "weak_ok": 0.25, "strong_ok": 1},
    ]
    content, data = packed(rows)
    file.write_bytes(data if ending.endswith("gz") else content)
    first, second = read_own(file)
    assert (first.set_name, first.weak_ok, first.strong_ok, first.graded) == ("mine", 0.0, 1.0, False)
    assert (second.weak_ok, second.graded) == (0.25, True)


@pytest.mark.parametrize("content", ["", '{"id": "1", "prompt": "p", "weak_ok": 2, "strong_ok": 1}\n', "[]\n", "{\n"])
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(content, "utf-8")
    with pytest.raises(DataRefused):
        read_own(file)


@needs_data
def test_the_public_sets_are_whole_and_their_ids_are_the_keys() -> None:
    data = DataFolder.open(DATA)
    labelled = {name: data.labelled(name) for name in PAIR_SETS}
    assert {name: len(rows) for name, rows in labelled.items()} == {MMLU: 10_395, GSM8K: 657, MTBENCH: 72}
    for rows in labelled.values():
        assert all(each.row_id.endswith(each.key) for each in rows)
    unique = deduplicate(each for rows in labelled.values() for each in rows)
    assert (unique.repeated, len(unique.rows)) == (35, 10_360 + 657 + 72)
    assert len({each.key for each in unique.rows}) == len(unique.rows)
    assert (len(data.tiers()), len(data.incidents()), len(data.cases())) == (1904, 153, 330)
