"""Releases: no step up without evidence, no step out of order, and a way back that acts at once."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from deployments.difficulty.learned import LearnedSource
from deployments.difficulty.settings import LearnedSettings
from deployments.ports import SessionId, TenantId
from router.features import read
from router.score import NO_SURE_GAIN, score
from router.snapshot import parse
from router.types import Mode
from serve_app.routing.coldstart import cold_start
from serve_app.routing.data import DataRefused
from serve_app.routing.learned_traffic import Turns, learn
from serve_app.routing.releases import JOURNAL, SETTINGS, ReleaseRefused, Releases, Step, changes, mute
from serve_app.routing.traffic import TrafficRow
from serve_app.routing.train import Trained
from tests.unit.routing.traffic_rows import Right, everywhere_better, helps, turns

FIRST = learn(turns(800, seed=1), "first")
SECOND = learn(turns(800, seed=2), "second")
HARD = "If the river is high, when does the harbour close unless the wind turns, and what happens after that?"


@dataclass
class Life:
    """A folder, and turns that go on being judged between the steps."""

    folder: Path
    now_ms: int = 1_000_000
    seed: int = 100
    rows: list[TrafficRow] = field(default_factory=list[TrafficRow])

    def judged(self, count: int = 700, right: Right = helps) -> None:
        self.seed += 1
        self.rows += turns(count, self.seed, right, after_ms=self.now_ms)
        self.now_ms += 10_000

    def step(self, made: Trained, to: str, share: float = 0.05) -> Step:
        return Releases(self.folder).release(made.snapshot, made.keys, self.rows, to, share, 0.3, "ann", self.now_ms)

    def up(self, made: Trained) -> None:
        self.step(made, "shadow")
        self.judged()
        self.step(made, "slice")
        self.judged()
        self.step(made, "apply")

    def back(self) -> Step:
        self.now_ms += 1
        return Releases(self.folder).rollback("bob", self.now_ms)

    @property
    def settings(self) -> LearnedSettings:
        return LearnedSettings.model_validate(yaml.safe_load((self.folder / SETTINGS).read_text())["learned"])


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path / "releases")


def digest(made: Trained) -> str:
    return hashlib.sha256(made.snapshot).hexdigest()


def in_force(settings: LearnedSettings) -> str:
    source = LearnedSource(settings, None)
    assert source.current is not None
    return source.current.digest


def test_shadow_then_a_slice_then_everywhere(life: Life):
    shadow = life.step(FIRST, "shadow")
    assert (shadow.mode, shadow.stage, life.settings.mode) == ("shadow", "shadow", "shadow")
    life.judged()
    small = life.step(FIRST, "slice", 0.05)
    assert (small.stage, life.settings.slice) == ("slice", 0.05)
    life.judged()
    assert life.step(FIRST, "slice", 0.25).slice == 0.25
    life.judged()
    assert life.step(FIRST, "apply").stage == "apply"
    assert (life.settings.mode, life.settings.slice, in_force(life.settings)) == ("apply", 1.0, digest(FIRST))
    steps = Releases(life.folder).steps()
    assert [step.number for step in steps] == [1, 2, 3, 4]
    assert {step.by for step in steps} == {"ann"}
    for step in steps:
        evidence = (life.folder / f"{step.digest}.{step.number}.json").read_bytes()
        assert hashlib.sha256(evidence).hexdigest() == step.evidence
    assert json.loads(evidence)["gate"]["acts"] == "difference"


@pytest.mark.parametrize(
    ("before", "to", "share", "why"),
    [
        ((), "slice", 0.05, "shadow first"),
        ((), "apply", 1.0, "shadow first"),
        (("shadow",), "apply", 1.0, "slice before"),
        (("shadow", "slice"), "slice", 0.05, "a slice grows"),
        (("shadow", "slice"), "slice", 1.0, "a slice grows"),
    ],
    ids=["slice-first", "apply-first", "no-slice", "same-slice", "slice-of-all"],
)
def test_a_step_out_of_order_is_refused(life: Life, before: tuple[str, ...], to: str, share: float, why: str):
    for step in before:
        life.step(FIRST, step)
        life.judged()
    with pytest.raises(ReleaseRefused, match=why):
        life.step(FIRST, to, share)
    assert len(Releases(life.folder).steps()) == len(before)


def test_another_snapshot_does_not_inherit_a_step(life: Life):
    life.step(FIRST, "shadow")
    life.judged()
    with pytest.raises(ReleaseRefused, match="shadow first"):
        life.step(SECOND, "slice")


def test_evidence_from_before_the_last_step_does_not_count(life: Life):
    life.judged()
    life.step(FIRST, "shadow")
    with pytest.raises(DataRefused, match="no turn is left"):
        life.step(FIRST, "slice")
    life.judged(100)
    with pytest.raises(ReleaseRefused, match="fewer than"):
        life.step(FIRST, "slice")


def test_a_head_that_the_gate_refuses_goes_no_further(life: Life):
    life.step(FIRST, "shadow")
    life.judged(right=everywhere_better)
    with pytest.raises(ReleaseRefused, match="the gate refuses the head"):
        life.step(FIRST, "slice")
    assert life.settings.mode == "shadow"


def test_a_way_back_to_nothing_is_a_muted_copy_under_the_eyes_of_a_running_server(life: Life):
    life.up(FIRST)
    server = LearnedSource(life.settings, None)
    assert server.mode(TenantId("acme"), SessionId("s")) is Mode.APPLY
    before = score((read(HARD),), server.current)
    assert before.abstained is None
    step = life.back()
    assert (step.muted, step.mode, step.emptied) == (True, "shadow", step.file)
    assert server.look()  # its settings still say `apply`
    after = score((read(HARD),), server.current)
    assert (after.abstained, after.gain, after.difficulty) == (NO_SURE_GAIN, before.gain, before.difficulty)
    assert life.settings.mode == "shadow"
    assert in_force(life.settings) == step.digest
    with pytest.raises(ReleaseRefused, match="shadow first"):
        life.step(FIRST, "slice")


def test_a_way_back_to_what_acted_before(life: Life):
    life.up(FIRST)
    old = life.settings
    life.judged()
    life.up(SECOND)
    server = LearnedSource(life.settings, None)
    step = life.back()
    assert (step.digest, step.mode, step.slice, step.muted) == (digest(FIRST), "apply", 1.0, False)
    assert server.look()
    assert server.current is not None
    assert server.current.digest == digest(FIRST)
    assert life.settings == old
    # And once more: nothing acted before the first one, and the second one was taken back.
    again = life.back()
    assert again.muted
    assert in_force(life.settings) == hashlib.sha256(mute(parse(FIRST.snapshot))).hexdigest()


def test_a_file_that_a_server_reads_is_never_given_something_that_acts_more(life: Life):
    life.up(FIRST)
    first = life.settings
    life.step(SECOND, "shadow")
    assert life.settings.snapshot != first.snapshot
    assert in_force(first) == digest(FIRST)  # until the settings are deployed, the first one goes on
    life.back()
    life.back()
    muted = in_force(first)
    life.step(FIRST, "shadow")
    assert in_force(first) == muted  # a server with the old settings would let it act
    assert in_force(life.settings) == digest(FIRST)


def test_a_crash_after_the_journal_is_finished_by_the_next_command(life: Life):
    life.up(FIRST)
    server = LearnedSource(life.settings, None)
    whole = {file.name: file.read_bytes() for file in life.folder.iterdir()}
    life.back()
    for name, data in whole.items():
        if name != JOURNAL:
            (life.folder / name).write_bytes(data)  # the files as they were: only the journal has got the step
    assert in_force(life.settings) == digest(FIRST)
    life.back()
    assert server.look()
    assert server.current is not None
    assert server.current.gain_low is not None
    assert server.current.gain_low.at(1.0) == -1.0


def test_a_line_that_was_cut_off_does_not_count_and_other_damage_is_refused(life: Life):
    life.step(FIRST, "shadow")
    journal = life.folder / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"number": 2, "at')
    assert len(Releases(life.folder).steps()) == 1
    life.judged()
    assert life.step(FIRST, "slice").number == 2
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    with pytest.raises(ReleaseRefused, match="damaged"):
        life.back()


def test_a_kept_snapshot_that_was_changed_is_not_put_in_force(life: Life):
    life.step(FIRST, "shadow")
    (life.folder / f"{digest(FIRST)}.snapshot").write_bytes(SECOND.snapshot)
    with pytest.raises(ReleaseRefused, match="not what its name says"):
        life.back()


def test_nothing_released_is_nothing_to_take_back(life: Life):
    with pytest.raises(ReleaseRefused, match="nothing was ever released"):
        life.back()


def test_what_changes_is_told_in_features_and_turns():
    rows = Turns.of(turns(600, seed=9))
    first, second = parse(FIRST.snapshot), parse(SECOND.snapshot)
    entered = changes(None, first, rows, 0.3)
    weights = entered["gain_weights"]
    assert isinstance(weights, dict)
    assert next(iter(weights)) == "conditions"
    told = entered["turns"]
    assert isinstance(told, dict)
    assert isinstance(told["up"], dict)
    assert told["both_120b"] == 0
    assert set(told["up"]) == {"chat", "extraction"}
    same = changes(first, first, rows, 0.3)["turns"]
    assert isinstance(same, dict)
    assert (same["up"], same["down"]) == ({}, {})
    other = changes(first, second, rows, 0.3)
    assert (other["before"], other["after"]) == (digest(FIRST), digest(SECOND))
    assert "turns" not in changes(cold_start(), first, rows, 0.3)  # the shipped one says nothing of a gain


def test_every_snapshot_that_was_in_force_can_be_found_by_its_digest(life: Life):
    life.up(FIRST)
    muted = life.back()
    assert set(Releases(life.folder).snapshots()) == {digest(FIRST), muted.digest}
