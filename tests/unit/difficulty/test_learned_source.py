from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.difficulty.learned import LearnedSource, LearnedSources
from deployments.difficulty.settings import LearnedSettings
from deployments.ports import SessionId, TenantId
from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import ROUTER_TARGET, Kind
from router.snapshot import SnapshotError, parse, serialise
from router.types import Mode
from serve_app.routing.coldstart import cold_start_bytes

ACME = TenantId("acme")
SHIPPED = cold_start_bytes()


def own(title: str = "own") -> bytes:
    """The shipped heads under another title, as a file of one's own."""
    known = parse(SHIPPED)
    return serialise(title, known.bits, known.scales, known.heads, known.seen, known.gain_low)


def a_source(path: Path, data: bytes, **settings: object) -> LearnedSource:
    replace_file(path, data)
    return LearnedSource(LearnedSettings(snapshot=str(path), **settings), SHIPPED)


def replace_file(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(path)


def modes(source: LearnedSource, count: int = 2_000) -> list[Mode]:
    return [source.mode(ACME, SessionId(f"s{number}")) for number in range(count)]


def test_what_is_shipped_orders_turns_and_never_acts():
    source = LearnedSource(LearnedSettings(mode="apply"), SHIPPED)
    assert source.current is not None
    assert source.current.digest == parse(SHIPPED).digest
    assert set(modes(source, 50)) == {Mode.SHADOW}
    assert not source.look()
    assert LearnedSource(LearnedSettings(), None).current is None


def test_a_snapshot_of_ones_own_acts_where_it_is_let(tmp_path: Path):
    path = tmp_path / "own.snapshot"
    assert set(modes(a_source(path, own()), 50)) == {Mode.SHADOW}
    assert set(modes(a_source(path, own(), mode="apply"), 50)) == {Mode.APPLY}


def test_a_slice_is_a_share_of_the_sessions_and_each_stays_where_it_is(tmp_path: Path):
    path = tmp_path / "own.snapshot"
    sliced = a_source(path, own(), mode="apply", slice=0.05)
    found = modes(sliced)
    assert found.count(Mode.APPLY) / len(found) == pytest.approx(0.05, abs=0.015)
    assert found == modes(a_source(path, own("another"), mode="apply", slice=0.05))
    wider = modes(a_source(path, own(), mode="apply", slice=0.25))
    assert all(after is Mode.APPLY for before, after in zip(found, wider, strict=True) if before is Mode.APPLY)


def test_a_new_file_takes_over_and_a_bad_one_changes_nothing(tmp_path: Path):
    path = tmp_path / "own.snapshot"
    source = a_source(path, own())
    first = source.current
    for bad in (b"", SHIPPED[:-1], b"\x00" * 1_000):
        replace_file(path, bad)
        assert not source.look()
        assert source.refused
        assert source.current is first
    path.unlink()
    assert not source.look()
    replace_file(path, own("second"))
    assert source.look()
    assert source.refused is None
    assert source.current is not None
    assert source.current.title == "second"


def test_a_replica_does_not_start_with_a_bad_file_or_without_it(tmp_path: Path):
    path = tmp_path / "own.snapshot"
    with pytest.raises(SnapshotError):
        LearnedSource(LearnedSettings(snapshot=str(path)), SHIPPED)
    with pytest.raises(SnapshotError):
        a_source(path, b"nothing")


def registered(path: Path, data: bytes) -> str:
    """What `gatehouse rollout register` prints of a snapshot."""
    replace_file(path, data)
    return revision_of(scan(Kind.ROUTER, ROUTER_TARGET, path))


def test_a_revision_that_is_a_digest_is_held_against_the_file(tmp_path: Path):
    path = tmp_path / "own.snapshot"
    revision = registered(path, own())
    source = LearnedSource(LearnedSettings(snapshot=str(path), revision=revision), SHIPPED)
    first = source.current
    replace_file(path, own("another"))
    assert not source.look()
    assert "is not the revision" in str(source.refused)
    assert source.current is first
    with pytest.raises(SnapshotError, match="is not the revision"):
        LearnedSource(LearnedSettings(snapshot=str(path), revision=revision), SHIPPED)


def test_a_candidate_stands_beside_what_is_configured_and_acts_as_it_does(tmp_path: Path):
    old, new = tmp_path / "old.snapshot", tmp_path / "new.snapshot"
    replace_file(old, own("old"))
    revision = registered(new, own("new"))
    candidate = {"snapshot": str(new), "revision": revision}
    for snapshot, title, mode in ((str(old), "old", Mode.APPLY), (None, parse(SHIPPED).title, Mode.SHADOW)):
        settings = LearnedSettings.model_validate({"snapshot": snapshot, "mode": "apply", "candidate": candidate})
        both = LearnedSources(settings, SHIPPED)
        found = {each: both.of(each).current for each in (revision, "", "configured", "gone")}
        assert [each.title for each in found.values() if each] == ["new", title, title, title]
        assert set(modes(both.of(revision), 20)) == {Mode.APPLY}
        assert set(modes(both.of(""), 20)) == {mode}
    narrow = LearnedSettings.model_validate({"mode": "apply", "slice": 0.25, "candidate": candidate})
    acting = modes(LearnedSources(narrow, SHIPPED).of(revision)).count(Mode.APPLY)
    assert acting / 2_000 == pytest.approx(0.25, abs=0.05)


def test_a_candidate_that_is_not_what_was_registered_stops_the_start(tmp_path: Path):
    path = tmp_path / "new.snapshot"
    revision = registered(path, own("new"))
    settings = LearnedSettings.model_validate(
        {"mode": "apply", "candidate": {"snapshot": str(path), "revision": revision}}
    )
    for data in (own("another"), b"nothing"):
        replace_file(path, data)
        with pytest.raises(SnapshotError):
            LearnedSources(settings, SHIPPED)
    path.unlink()
    with pytest.raises(SnapshotError, match="cannot be read"):
        LearnedSources(settings, SHIPPED)


def test_settings_are_strict():
    other = {"snapshot": "x", "revision": "a" * 64}
    for bad in (
        {"candidate": other},  # what only watches is not rolled out
        {"mode": "apply", "revision": "a" * 64, "candidate": other},
        {"mode": "apply", "candidate": {**other, "revision": "new"}},
    ):
        with pytest.raises(ValidationError):
            LearnedSettings.model_validate(bad)
    for bad in ({"mode": "yes"}, {"slice": 0}, {"slice": 1.5}, {"snapshot": 1}, {"share": 1}):
        with pytest.raises(ValidationError):
            LearnedSettings.model_validate(bad)
