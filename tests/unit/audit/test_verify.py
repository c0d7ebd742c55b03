import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.head import HEAD_FILE, read_head, write_head
from deployments.audit.segment import frame, segment_paths
from deployments.audit.settings import AuditSettings
from deployments.audit.verify import Unusable, verify
from deployments.ports import AuditEvent, AuditHead
from tests.unit.audit.logs import D2, D3, Flow, event, frames_of, raw_frames, replace_frames, routed, write_log


def _failed(directory: Path) -> dict[str, int | None]:
    """The names of the failed checks, with their first index."""
    return {check.name: check.first_index for check in verify(directory).checks if check.failures}


def _relinked(payloads: Sequence[bytes]) -> tuple[list[bytes], AuditHead]:
    """Frames of a log with these payloads whose framing and chain are perfect: the work of a careful forger."""
    frames: list[bytes] = []
    head = GENESIS
    for sequence, payload in enumerate(payloads):
        frames.append(frame(sequence, head, payload))
        head = link(head, leaf_hash(payload))
    return frames, AuditHead(len(frames), head.hex())


def _payloads(directory: Path) -> list[bytes]:
    return [found.payload for path in segment_paths(directory) for found in frames_of(path)]


def test_an_honest_log_passes_every_check(tmp_path: Path) -> None:
    second = Flow("R3", "call_2", "apr_2", D3)
    write_log(tmp_path, [routed(1), *Flow().whole(), *second.whole(["alice", "bob"])])
    report = verify(tmp_path)
    assert report.ok
    summary = report.to_json()
    assert summary["records"] == 1 + 1 + 8 + 9
    assert summary["head"] == {"size": 19, "head_hash": read_head(tmp_path / HEAD_FILE).head_hash}
    assert summary["models"] == ["demo-20b"]
    assert report.events["tool_call.released"] == 2
    assert [check.number for check in report.checks] == list(range(1, 11))


# --- mathematics -------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path, [routed(number) for number in range(5)], AuditSettings(lock_timeout_s=0))
    return tmp_path


@pytest.mark.parametrize("index", range(6))
def test_a_deleted_record_is_missed(log: Path, index: int) -> None:
    frames = raw_frames(log)
    replace_frames(log, frames[:index] + frames[index + 1 :])
    failed = _failed(log)
    assert "head" in failed
    if index < 5:
        assert (failed["sequence"], failed["chain"]) == (index, index)


@pytest.mark.parametrize("index", range(5))
def test_two_records_that_changed_places_are_noticed(log: Path, index: int) -> None:
    frames = raw_frames(log)
    frames[index], frames[index + 1] = frames[index + 1], frames[index]
    replace_frames(log, frames)
    failed = _failed(log)
    assert (failed["sequence"], failed["identity"]) == (index, index)
    assert "chain" in failed


@pytest.mark.parametrize("index", range(6))
def test_a_rewritten_record_is_noticed_even_when_everything_after_it_is_relinked(log: Path, index: int) -> None:
    payloads = _payloads(log)
    payloads[index] = payloads[index].replace(b'"tenant":"', b'"tenant":"x')
    frames, _ = _relinked(payloads)
    replace_frames(log, frames)
    assert _failed(log) == {"head": 5}


def test_a_forger_who_also_rewrites_the_head_is_caught_by_a_checkpoint_kept_elsewhere(
    log: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = tmp_path_factory.mktemp("elsewhere") / "head"
    checkpoint.write_bytes((log / HEAD_FILE).read_bytes())
    frames, head = _relinked(_payloads(log)[:3])
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log) == {}
    assert not verify(log, checkpoint).ok


def test_an_inserted_duplicate_is_noticed(log: Path) -> None:
    payloads = _payloads(log)
    frames, head = _relinked([*payloads, payloads[2]])
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log) == {"identity": 6, "event ids": 6}


def test_bytes_that_are_not_canonical_are_noticed(log: Path) -> None:
    payloads = _payloads(log)
    payloads[1] = payloads[1].replace(b'"tier":"20b"', b'"tier": "20b"')
    payloads[2] = payloads[2].replace(b'"effort"', b'"difficulty":1.0,"effort"')
    payloads[3] = payloads[3].replace(b'"effort"', b'"difficulty":1e+16,"effort"')
    payloads[4] = payloads[4].replace(b'"tier":"20b"', b'"tier":"20b","tier":"20b"')
    frames, head = _relinked(payloads)
    replace_frames(log, frames)
    write_head(log, head)
    [check] = [check for check in verify(log).checks if check.failures]
    assert (check.name, check.failures, check.first_index) == ("schema", 4, 1)


@pytest.mark.parametrize("payload", [b"[1]", b"nonsense", b"{}", b'{"a":NaN}', b"[" * 9000, b"\xc3\x28"])
def test_no_payload_stops_the_verifier(log: Path, payload: bytes) -> None:
    payloads = _payloads(log)
    frames, head = _relinked([*payloads[:3], payload, *payloads[3:]])
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log)["schema"] == 3


def test_a_field_outside_the_schema_is_noticed(log: Path) -> None:
    payloads = _payloads(log)
    payloads[1] = payloads[1].replace(b'"data":{', b'"data":{"arguments":"rm -rf /",')
    frames, head = _relinked(payloads)
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log) == {"schema": 1}


def test_a_log_that_does_not_begin_with_its_opening_is_noticed(log: Path) -> None:
    frames, head = _relinked([payload.replace(b'"name":"log.opened"', b"") for payload in _payloads(log)[1:]])
    replace_frames(log, frames)
    write_head(log, head)
    assert _failed(log)["epochs"] == 0


def test_a_log_in_mid_write_is_not_broken(log: Path) -> None:
    last = segment_paths(log)[-1]
    last.write_bytes(last.read_bytes() + raw_frames(log)[0][:40])
    report = verify(log)
    assert (report.ok, report.torn_tail_bytes) == (True, 40)


def test_a_missing_head_is_a_finding_unless_a_checkpoint_is_given(log: Path, tmp_path: Path) -> None:
    checkpoint = (log / HEAD_FILE).rename(tmp_path / "kept")
    assert "head" in _failed(log)
    assert verify(log, checkpoint).ok


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"size": -1, "head_hash": ""}', '{"size": true}', "\ud800"])
def test_a_checkpoint_that_is_none_is_unusable(log: Path, content: str) -> None:
    checkpoint = log / "checkpoint"
    checkpoint.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(Unusable):
        verify(log, checkpoint)


def test_what_is_no_log_is_unusable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(Unusable):
            verify(path)


# --- meaning -----------------------------------------------------------------------------------------------------


def _without(*names: str) -> Callable[[Flow], list[AuditEvent]]:
    return lambda flow: [item for item in flow.whole() if item.name not in names]


def _with(*extra: Callable[[Flow], AuditEvent], before: str = "") -> Callable[[Flow], list[AuditEvent]]:
    """The honest flow with further events before the one named, or at the end."""

    def build(flow: Flow) -> list[AuditEvent]:
        events = flow.whole()
        place = next((place for place, item in enumerate(events) if item.name == before), len(events))
        return [*events[:place], *(make(flow) for make in extra), *events[place:]]

    return build


def _r0_without_proposal(_: Flow) -> list[AuditEvent]:
    return [Flow("R0").released()]


def _released_as_r1(flow: Flow) -> list[AuditEvent]:
    return [flow.proposed(), flow.classified(), flow.released(risk="R1")]


def _release(**changes: str | None) -> Callable[[Flow], list[AuditEvent]]:
    return lambda flow: [*flow.whole()[:-1], flow.released(**changes)]


def _second_release(flow: Flow) -> list[AuditEvent]:
    other = Flow(flow.risk, "call_2", flow.approval, flow.digest)
    return [*flow.whole(), other.proposed(), other.classified(), other.released()]


def _released_twice(_: Flow) -> list[AuditEvent]:
    flow = Flow("R0")
    again = event("tool_call.released", "again", **flow.released().data)
    return [flow.proposed(), flow.released(), again]


def _again(flow: Flow) -> AuditEvent:
    return flow.step("permit.consumed", ":again")


def _other_digest(flow: Flow) -> AuditEvent:
    return flow.step("permit.consumed", ":other", action_digest=D2)


def _one_person_twice(_: Flow) -> list[AuditEvent]:
    flow = Flow("R3")
    again = flow.step("approval.voted", ":again", voter="alice", approve=True)
    return [*flow.whole(["alice"])[:5], again, *flow.whole(["alice"])[5:]]


def _own_vote(_: Flow) -> list[AuditEvent]:
    return Flow("R3").whole(["alice", "rita"])


MUTANTS: list[tuple[Callable[[Flow], list[AuditEvent]], str, str]] = [
    (_r0_without_proposal, "releases", "never proposed"),
    (_without("tool_call.proposed"), "releases", "never proposed"),
    (_without("approval.requested"), "approvals", "never requested"),
    (_without("approval.voted"), "approvals", "granted with 0 distinct voters"),
    (_without("approval.granted"), "releases", "without a granted approval"),
    (_without("approval.granted"), "approvals", "permit.consumed without a granted approval"),
    (_without("permit.consumed"), "releases", "without consuming its permit"),
    (_without("approval.requested", "approval.voted", "approval.granted", "permit.consumed"), "releases", "R2 was"),
    (_with(Flow.denied, before="tool_call.released"), "releases", "after it was denied"),
    (_release(change_id=None), "releases", "without change_id and rollback_digest"),
    (_release(rollback_digest=None), "releases", "without change_id and rollback_digest"),
    (_release(action_digest=D2), "releases", "another action than was approved"),
    (_release(approval_id="apr_9"), "releases", "without a granted approval"),
    (_release(risk="FORBIDDEN"), "releases", "classified R2 was released as FORBIDDEN"),
    (_released_as_r1, "releases", "classified R2 was released as R1"),
    (_released_twice, "releases", "a call was released twice"),
    (_second_release, "releases", "one approval released two calls"),
    (_with(_again), "approvals", "consumed twice"),
    (_with(_other_digest, before="permit.consumed"), "approvals", "another action than was requested"),
    (_with(lambda flow: flow.step("approval.rejected"), before="approval.granted"), "approvals", "after approval.rej"),
    (_with(lambda flow: flow.step("approval.expired"), before="permit.consumed"), "approvals", "after approval.exp"),
    (_one_person_twice, "approvals", "R3 was granted with 1 distinct voters"),
    (lambda _: Flow("R3").whole(["alice"]), "approvals", "R3 was granted with 1 distinct voters"),
    (lambda _: Flow("R3").whole(["alice"]), "releases", "R3 was released with 1 distinct voters"),
    (_own_vote, "approvals", "own requester"),
    (lambda _: [Flow("R1").proposed(), Flow("R1").released(rollback_digest=None)], "releases", "R1 was released with"),
    (lambda _: [Flow("FORBIDDEN").proposed(), Flow("FORBIDDEN").released()], "releases", "class FORBIDDEN"),
]


@pytest.mark.parametrize(
    ("build", "check", "says"), MUTANTS, ids=[f"{says}-{n}" for n, (_, _, says) in enumerate(MUTANTS)]
)
def test_a_log_that_means_something_forbidden_is_named(
    tmp_path: Path, build: Callable[[Flow], list[AuditEvent]], check: str, says: str
) -> None:
    write_log(tmp_path, [routed(0), *build(Flow())])
    found = {item.name: item for item in verify(tmp_path).checks}[check]
    assert found.failures
    assert says in (found.detail or "")


def test_every_step_of_an_approved_release_must_come_in_order(tmp_path: Path) -> None:
    # Swapping a pair of neighbours breaks a rule, except where neither depends on the other.
    independent = {
        ("tool_call.classified", "approval.requested"),
        ("approval.requested", "tool_call.held"),
        ("tool_call.held", "approval.voted"),
        ("tool_call.proposed", "tool_call.classified"),
    }
    events = Flow().whole()
    for place, (one, two) in enumerate(pairwise(events)):
        if (one.name, two.name) in independent:
            continue
        swapped = [*events[:place], two, one, *events[place + 2 :]]
        directory = tmp_path / str(place)
        write_log(directory, swapped)
        assert not verify(directory).ok, (one.name, two.name)


def test_a_call_that_came_again_is_released_by_its_fingerprint(tmp_path: Path) -> None:
    flow = Flow()
    events = [*flow.whole()[:2], flow.requested(fingerprint=D3), *flow.whole()[3:-1]]
    again = Flow(call="call_2", digest=D2)
    write_log(tmp_path, [*events, again.proposed(), again.classified(), again.released(fingerprint=D3)])
    assert verify(tmp_path).ok


def test_the_observe_profile_is_counted_and_not_judged(tmp_path: Path) -> None:
    flow = Flow("R3")
    write_log(tmp_path, [flow.proposed(), flow.classified(), flow.released(profile="observe", approval_id=None)])
    report = verify(tmp_path)
    assert (report.ok, report.observed_releases) == (True, 1)


def test_approvals_of_another_tenant_do_not_count(tmp_path: Path) -> None:
    flow = Flow()
    foreign = [event(item.name, item.event_id, tenant="other", **item.data) for item in flow.whole()[2:-1]]
    write_log(tmp_path, [flow.proposed(), flow.classified(), *foreign, flow.released()])
    assert _failed(tmp_path) == {"releases": 8}


# --- as a tool ---------------------------------------------------------------------------------------------------


def test_the_verifier_loads_neither_ray_nor_a_server() -> None:
    code = (
        "import sys, deployments.audit.verify, deployments.audit.read; "
        "print([name for name in ('ray', 'fastapi', 'sqlalchemy', 'pydantic', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
