import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from deployments.gate.classify import Classification, Classifier
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.settings import GateSettings
from deployments.gate.shadow import ShadowedClassifier
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tables import Outcome
from deployments.ports import Risk
from serve_app.api.metrics import Counters
from serve_app.app import load_classifier
from tests.unit.gate.tiny import tiny, write


@pytest.fixture
def live(tmp_path: Path) -> Bundle:
    return read_policy(write(tmp_path, tiny()))


@pytest.fixture
def candidate(tmp_path: Path) -> Bundle:
    """Holds what the live one releases: listing files."""
    said = tiny() | {"name": "candidate"}
    said["rules"][0] |= {"class": "R2", "match": ["ls"], "not_match": []}
    said["tools"][0]["examples"] = [{"arguments": {"command": "ls"}, "risk": "R2"}]
    return read_policy(write(tmp_path, said))


def run(classifier: Classifier, command: str) -> Classification:
    return classifier.classify("shell", {"command": command})


def shadowed(live: Bundle, candidate: Bundle | None, patience_s: float = 20.0) -> ShadowedClassifier:
    return ShadowedClassifier(live, candidate, ShellReader(20.0), patience_s)


def test_the_live_bundle_decides_and_the_other_is_told(live: Bundle, candidate: Bundle) -> None:
    both, alone = shadowed(live, candidate), Classifier(live, ShellReader(20.0))
    found, expected = run(both, "ls"), run(alone, "ls")
    assert found.shadow is not None
    assert (found.shadow.risk, found.shadow.outcome) == (Risk.R2, Outcome.HOLD)
    assert found.shadow.policy_digest == candidate.policy_digest
    for name in ("risk", "outcome", "reasons", "rules", "commands", "arguments", "policy_digest", "covered"):
        assert getattr(found, name) == getattr(expected, name)
    assert both.policy_digest == live.policy_digest
    assert both.bundle_name == "tiny"


def test_agreement_and_differences_are_counted(live: Bundle, candidate: Bundle) -> None:
    both = shadowed(live, candidate)
    for command in ("ls", "ls src", "rm x", "ls .env"):
        run(both, command)
    counts = both.counts
    assert counts.pairs == {
        (Outcome.RELEASE, Outcome.HOLD): 2,
        (Outcome.HOLD, Outcome.HOLD): 1,
        (Outcome.NEEDS_PLAN, Outcome.HOLD): 1,
    }
    assert (counts.changed, counts.missed) == (3, {})


class Broken(ShadowedClassifier):
    """Its candidate raises, as no classifier should."""

    @staticmethod
    def make_candidate(candidate: Bundle, reader: ShellReader) -> Classifier:
        class Raising(Classifier):
            def classify(self, *_: object, **__: object) -> Classification:
                raise TimeoutError("a secret")

        return Raising(candidate, reader)


def test_a_candidate_that_fails_changes_nothing(
    live: Bundle, candidate: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    both = Broken(live, candidate, ShellReader(20.0), 20.0)
    found = run(both, "ls")
    assert (found.risk, found.outcome, found.shadow) == (Risk.R0, Outcome.RELEASE, None)
    assert both.counts.missed == {"failed": 1}
    assert "secret" not in caplog.text


class Slow(ShadowedClassifier):
    """Its candidate waits until it is let go."""

    gate = threading.Event()
    entered = threading.Event()

    @staticmethod
    def make_candidate(candidate: Bundle, reader: ShellReader) -> Classifier:
        class Waiting(Classifier):
            def classify(self, *_: object, **__: object) -> Classification:
                Slow.entered.set()
                Slow.gate.wait()
                return Classifier(candidate, reader).classify("shell", {"command": "ls"})

        return Waiting(candidate, reader)


@pytest.fixture
def let_go() -> Iterator[None]:
    Slow.gate.clear()
    Slow.entered.clear()
    yield
    Slow.gate.set()


@pytest.mark.usefixtures("let_go")
def test_nobody_waits_for_a_slow_candidate(live: Bundle, candidate: Bundle) -> None:
    both = Slow(live, candidate, ShellReader(20.0), 0.01)
    assert run(both, "ls").shadow is None  # it would never come back otherwise: the candidate waits for ever
    Slow.entered.wait()
    assert run(both, "ls src").outcome is Outcome.RELEASE
    assert both.counts.missed == {"late": 1, "busy": 1}
    Slow.gate.set()


def test_a_call_that_cannot_be_read_is_held_by_both(live: Bundle, candidate: Bundle) -> None:
    found = shadowed(live, candidate).classify("shell", '{"command": "ls", "command": "rm x"}')
    assert found.outcome is Outcome.HOLD
    assert found.shadow is not None
    assert found.shadow.outcome is Outcome.HOLD


def test_it_travels_to_another_process(live: Bundle, candidate: Bundle) -> None:
    both = shadowed(live, candidate)
    run(both, "ls")
    moved: ShadowedClassifier = pickle.loads(pickle.dumps(both))
    assert run(moved, "ls").shadow is not None
    assert sum(moved.counts.pairs.values()) == 1


def test_a_replica_loads_both(tmp_path: Path, live: Bundle, candidate: Bundle) -> None:
    paths = [str(tmp_path / f"{bundle.name}.yaml") for bundle in (live, candidate)]
    plain = load_classifier(GateSettings(bundle=paths[0]), tmp_path / "marks")
    assert type(plain) is Classifier
    both = load_classifier(GateSettings(bundle=paths[0], shadow_bundle=paths[1]), tmp_path / "marks")
    assert isinstance(both, ShadowedClassifier)
    assert both.counts.policy_digest == candidate.policy_digest
    assert both.policy_digest == live.policy_digest
    assert len(list((tmp_path / "marks").iterdir())) == 2


def test_a_bad_candidate_stops_nothing_and_is_seen(tmp_path: Path, live: Bundle) -> None:
    settings = GateSettings(bundle=str(tmp_path / "tiny.yaml"), shadow_bundle="absent")
    both = load_classifier(settings, tmp_path / "marks")
    assert isinstance(both, ShadowedClassifier)
    assert run(both, "ls").outcome is Outcome.RELEASE
    assert (both.counts.policy_digest, both.counts.missed) == (None, {"absent": 1})


def test_metrics_tell_what_it_makes_of_calls(live: Bundle, candidate: Bundle) -> None:
    counters = Counters()
    assert "gatehouse_shadow" not in generate_latest(counters.registry).decode()
    both = shadowed(live, candidate)
    counters.watch_shadow(lambda: both.counts)
    run(both, "ls")
    run(both, "rm x")
    text = generate_latest(counters.registry).decode()
    assert 'gatehouse_shadow_calls_total{live="release",shadow="hold"} 1.0' in text
    assert 'gatehouse_shadow_calls_total{live="hold",shadow="hold"} 1.0' in text
    assert "gatehouse_shadow_changed_total 1.0" in text
    assert "gatehouse_shadow_up 1.0" in text
    absent = shadowed(live, None)
    counters.watch_shadow(lambda: absent.counts)
    run(absent, "ls")
    text = generate_latest(counters.registry).decode()
    assert "gatehouse_shadow_up 0.0" in text
    assert 'gatehouse_shadow_missed_total{why="absent"} 1.0' in text
