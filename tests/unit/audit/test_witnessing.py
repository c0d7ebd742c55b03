"""The log's side: what is asked, what is believed, when a log counts as confirmed, and what is blocked."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments.audit import witnessing
from deployments.audit.notes import (
    COSIGNATURE_V1,
    ED25519,
    BadKey,
    Signature,
    SignerKey,
    generate_key,
    parse_checkpoint,
    parse_note,
    parse_witness_keys,
    verify_note,
    write_signer_key,
)
from deployments.audit.proofs import Trust, verify_checkpoint
from deployments.audit.sealer import Sealer
from deployments.audit.settings import AuditSettings, WitnessSettings
from deployments.audit.witness import Cosigned, OtherSize, Reason, Refused, Witness, parse_submission
from deployments.audit.witnessing import Witnesses, newest_at
from deployments.audit.writer import LogWriter
from deployments.clock import FixedClock
from deployments.ports import AuditEvent, JsonValue, TenantId
from tests.unit.audit.witnesslogs import LOG_KEY, Tree

HONEST = [f"entry {number}".encode() for number in range(12)]
FORKED = [*HONEST[:4], *(f"other {number}".encode() for number in range(4, 12))]
KEYS = [generate_key(f"w{number}.test", COSIGNATURE_V1) for number in range(3)]
STATUS = {Reason.MALFORMED: 400, Reason.UNKNOWN_KEY: 403, Reason.UNKNOWN_LOG: 404, Reason.INCONSISTENT: 422}

Handler = Callable[[bytes], tuple[int, bytes]]


def real(witness: Witness) -> Handler:
    """The answers of a witness, without its HTTP."""

    def handle(body: bytes) -> tuple[int, bytes]:
        match witness.add_checkpoint(body):
            case Cosigned(signatures):
                return 200, "".join(signature.line() for signature in signatures).encode()
            case OtherSize(size):
                return 409, f"{size}\n".encode()
            case Refused(reason, _):
                return {Reason.INCONSISTENT: 422, Reason.UNKNOWN_LOG: 404, Reason.UNKNOWN_KEY: 403}.get(
                    reason, 400
                ), b""

    return handle


@dataclass
class Net:
    """Witnesses by host name; None does not answer. Keeps what each was asked."""

    hosts: dict[str, Handler | None] = field(default_factory=dict[str, Handler | None])
    asked: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.method == "POST"
        assert request.url.path == "/sub/add-checkpoint"
        handler = self.hosts[request.url.host]
        if handler is None:
            raise httpx2.ConnectError("refused")
        self.asked.append((request.url.host, request.content))
        status, body = handler(request.content)
        return httpx2.Response(status, content=body)


def settings_of(keys: list[SignerKey], quorum: int | None = None, max_age_s: float = 600.0) -> AuditSettings:
    return AuditSettings(
        witnesses=[WitnessSettings(url=f"http://{key.name}/sub/", key=str(key.verifier)) for key in keys],
        witness_quorum=quorum,
        witness_max_age_s=max_age_s,
    )


class Site:
    """One log, its witnesses in directories, and a clock that both sides read."""

    def __init__(self, directory: Path, count: int = 1, quorum: int | None = None) -> None:
        self.directory = directory
        self.clock = FixedClock()
        self.tree = Tree(HONEST)
        self.net = Net()
        self.opened = [
            Witness(directory / str(number), [LOG_KEY.verifier], self.clock, name=f"w{number}.test")
            for number in range(count)
        ]
        for witness in self.opened:
            self.net.hosts[witness.verifier.name] = real(witness)
        self.settings = AuditSettings(
            witnesses=[
                WitnessSettings(url=f"http://{each.verifier.name}/sub", key=str(each.verifier)) for each in self.opened
            ],
            witness_quorum=quorum,
        )
        self.witnesses = self.restarted()

    def restarted(self, tree: Tree | None = None) -> Witnesses:
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self.net))
        self.tree = tree or self.tree
        self.witnesses = Witnesses(self.tree, self.settings, self.clock, client)
        return self.witnesses


def against(handler: Handler, key: SignerKey = KEYS[0], clock: FixedClock | None = None) -> tuple[Witnesses, Tree]:
    """One witness that answers as `handler` says."""
    tree = Tree(HONEST)
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(Net({key.name: handler})))
    return Witnesses(tree, settings_of([key]), clock or FixedClock(), client), tree


def event(name: str, **data: JsonValue) -> AuditEvent:
    return AuditEvent(event_id=name, name=name, at_ms=1, tenant=TenantId("acme"), principal="key_1", data=data)


def released(risk: str) -> AuditEvent:
    return event("tool_call.released", gate_call_id="c", tool="shell", action_digest="1" * 64, risk=risk, profile="ops")


def signature_of(key: SignerKey, body: bytes, at_ms: int | None = None, more: str = "") -> bytes:
    """A cosignature line under the checkpoint of a request, or under its text and `more`."""
    time_s = (at_ms or FixedClock().now_ms()) // 1000
    text = parse_note(parse_submission(body).note).text + more
    value = Ed25519PrivateKey.from_private_bytes(key.seed).sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
    return Signature(key.name, key.verifier.key_id, time_s.to_bytes(8, "big") + value).line().encode()


# --- both sides together -----------------------------------------------------------------------------------------


async def test_a_log_is_confirmed_as_it_grows(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for size in (0, 1, 7, 12):
        site.tree.size = size
        await site.witnesses.ask()
        assert (site.witnesses.size, site.witnesses.age_s, site.witnesses.stale) == (size, 0.0, False)
    note, signatures = site.tree.cosigned[-1]
    [verified] = verify_note(parse_note(note).with_signatures(signatures), [site.opened[0].verifier])
    assert parse_checkpoint(parse_note(note).text).size == 12
    assert verified.time_s == site.clock.now_ms() // 1000


async def test_a_witness_that_knows_the_log_is_asked_twice_at_first_and_once_later(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.tree.size = 5
    await site.witnesses.ask()
    site.restarted()
    site.tree.size = 9
    site.net.asked.clear()
    await site.witnesses.ask()
    assert [parse_submission(body).old for _, body in site.net.asked] == [0, 5]
    site.net.asked.clear()
    await site.witnesses.ask()
    assert [parse_submission(body).old for _, body in site.net.asked] == [9]


async def test_an_answer_that_was_lost_after_it_was_persisted_does_no_harm(tmp_path: Path) -> None:
    site = Site(tmp_path)
    name = site.opened[0].verifier.name
    answer = site.net.hosts[name]
    assert answer is not None

    def lose(body: bytes) -> tuple[int, bytes]:
        answer(body)
        raise httpx2.ReadError("reset")

    site.net.hosts[name] = lose
    await site.witnesses.ask()
    assert site.witnesses.stale
    site.net.hosts[name] = answer
    await site.witnesses.ask()
    assert (site.witnesses.stale, site.witnesses.size) == (False, 12)


async def test_an_unchanged_log_is_confirmed_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.witnesses.ask()
    site.clock.advance(300_000)
    assert site.witnesses.age_s == 300.0
    await site.witnesses.ask()
    assert site.witnesses.age_s == 0.0


async def test_cosignatures_of_all_are_under_one_note_even_when_the_log_grows_meanwhile(tmp_path: Path) -> None:
    site = Site(tmp_path, count=3)
    for name, size in (("w0.test", 4), ("w1.test", 5), ("w2.test", 6)):
        answers = dict(site.net.hosts)
        site.net.hosts.update(dict.fromkeys(set(answers) - {name}))
        site.tree.size = size
        await site.witnesses.ask()
        site.net.hosts.update(answers)
    assert [state.size for state in site.witnesses.states()] == [4, 5, 6]

    take, fresh = site.tree.consistency, 0

    def growing(old_size: int) -> tuple[bytes, object]:
        nonlocal fresh
        fresh += 1
        site.tree.size = 8 + (fresh > 1)  # the first two proofs of the round lead to different checkpoints
        return take(old_size)

    site.tree.consistency = growing  # type: ignore[method-assign, assignment]
    site.tree.cosigned.clear()
    await site.witnesses.ask()
    texts = {parse_note(note).text for note, _ in site.tree.cosigned}
    assert len(texts) == 1
    assert len(site.tree.cosigned[-1][1]) == 3


async def test_a_slow_witness_does_not_keep_the_others_back(tmp_path: Path) -> None:
    site = Site(tmp_path, count=2, quorum=1)
    site.net.hosts["w1.test"] = None
    await site.witnesses.ask()
    assert not site.witnesses.stale
    assert [len(signatures) for _, signatures in site.tree.cosigned] == [1]


async def test_a_sealed_log_gets_the_quorum_under_its_checkpoint(tmp_path: Path) -> None:
    clock = FixedClock()
    keys = [generate_key(f"w{number}.test", COSIGNATURE_V1) for number in range(2)]
    log_settings = settings_of(keys)
    sealer = Sealer(log_settings, clock, background=False)
    writer = LogWriter(tmp_path / "audit", log_settings, "test", clock, sealing=sealer)
    sealer.seal()
    [log_key, *_] = sealer.verifier_keys()
    net = Net()
    for key in keys:
        (tmp_path / key.name).mkdir()
        write_signer_key(tmp_path / key.name / "witness.key", key)
        net.hosts[key.name] = real(Witness(tmp_path / key.name, [log_key], clock))
    witnesses = Witnesses(sealer, log_settings, clock, httpx2.AsyncClient(transport=httpx2.MockTransport(net)))
    for size in (1, 2):
        await witnesses.ask()
        assert (witnesses.size, witnesses.problem) == (size, None)
        witnessed = sealer.witnessed()
        assert witnessed is not None
        trust = Trust(log_key.name, (log_key,), tuple(key.verifier for key in keys), quorum=2)
        assert verify_checkpoint(witnessed, trust).checkpoint.size == size
        writer.commit([[event("audit.canary")]])
        sealer.seal()
    await witnesses.close()
    writer.close()
    sealer.close()


# --- contradictions ----------------------------------------------------------------------------------------------


async def test_a_log_that_was_rolled_back_is_found_out(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.witnesses.ask()
    site.restarted(Tree(HONEST[:7]))
    await site.witnesses.ask()
    assert site.witnesses.fatal == (
        "Witness w0.test has confirmed 12 records, but this log has a checkpoint of only 7: it was rolled back, or "
        "somebody else signs with its key."
    )
    assert site.witnesses.blocks(released("R2"))


async def test_a_log_that_was_rolled_back_and_grew_again_is_found_out(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.tree.size = 9
    await site.witnesses.ask()
    site.restarted(Tree(FORKED))
    await site.witnesses.ask()
    assert site.witnesses.fatal is not None
    assert "does not begin with: its history was rewritten" in site.witnesses.fatal


async def test_a_fork_of_one_size_is_found_out(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.witnesses.ask()
    site.restarted(Tree(FORKED))
    await site.witnesses.ask()
    assert site.witnesses.fatal == "Witness w0.test confirmed another history of 12 records than this log has."


async def test_a_contradiction_outlasts_silence_and_ends_with_a_cosignature(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.witnesses.ask()
    whole = site.tree
    witnesses = site.restarted(Tree(HONEST[:7]))
    await witnesses.ask()
    handler = site.net.hosts["w0.test"]
    site.net.hosts["w0.test"] = None
    site.tree.leaves = whole.leaves
    site.tree.size = 12
    await witnesses.ask()
    assert witnesses.fatal is not None
    site.net.hosts["w0.test"] = lambda body: (503, b"")
    await witnesses.ask()
    assert witnesses.fatal is not None
    site.net.hosts["w0.test"] = handler
    await witnesses.ask()
    assert (witnesses.fatal, witnesses.stale) == (None, False)


async def test_one_witness_of_many_is_enough_to_contradict(tmp_path: Path) -> None:
    site = Site(tmp_path, count=3, quorum=1)
    site.opened[2].add_checkpoint(Tree(FORKED).request(0, 9))
    await site.witnesses.ask()
    assert not site.witnesses.stale
    assert site.witnesses.fatal is not None
    assert site.witnesses.blocks(released("R3"))
    assert [state.fatal is not None for state in site.witnesses.states()] == [False, False, True]


async def test_a_witness_that_forgot_is_told_everything_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.witnesses.ask()
    forgetful = Witness(
        tmp_path / "new", [LOG_KEY.verifier], site.clock, key_file=tmp_path / "0" / "witness.key", name="w0.test"
    )
    site.net.hosts["w0.test"] = real(forgetful)
    await site.witnesses.ask()
    assert (site.witnesses.fatal, site.witnesses.age_s, forgetful.status()[0].size) == (None, 0.0, 12)


# --- answers that do not count -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda body: (200, b""), "is no cosignature"),
        (lambda body: (200, b"\xff\n"), "is no cosignature"),
        (lambda body: (200, signature_of(KEYS[1], body)), "is no cosignature"),
        (lambda body: (200, signature_of(SignerKey(KEYS[0].name, COSIGNATURE_V1, b"x" * 32), body)), "no cosignature"),
        (lambda body: (200, signature_of(KEYS[0], body)[:-10] + b"AAAAAAAA=\n"), "is no cosignature"),
        (lambda body: (200, b"more\n\n" + signature_of(KEYS[0], body, more="\nmore\n")), "is no cosignature"),
        (lambda body: (200, b"x" * 70_000), "more than 65536 bytes"),
        (lambda body: (200, signature_of(KEYS[0], body, FixedClock().ms - 700_000)), "700 s off"),
        (lambda body: (200, signature_of(KEYS[0], body, FixedClock().ms + 700_000)), "700 s off"),
        (lambda body: (403, b""), "answered 403"),
        (lambda body: (404, b""), "answered 404"),
        (lambda body: (400, b""), "answered 400"),
        (lambda body: (503, b""), "answered 503"),
        (lambda body: (302, b""), "answered 302"),
        (lambda body: (409, b""), "answered 409"),
        (lambda body: (409, b"007\n"), "answered 409"),
        (lambda body: (409, b"0\n"), "answered 409"),
    ],
)
async def test_an_answer_without_a_good_cosignature_confirms_nothing(answer: Handler, problem: str) -> None:
    witnesses, tree = against(answer)
    await witnesses.ask()
    assert witnesses.stale
    assert witnesses.fatal is None
    assert tree.cosigned == []
    [state] = witnesses.states()
    assert state.problem is not None
    assert problem in state.problem


async def test_a_recent_cosignature_under_a_clock_that_differs_counts() -> None:
    witnesses, tree = against(lambda body: (200, signature_of(KEYS[0], body, FixedClock().ms - 500_000)))
    await witnesses.ask()
    assert not witnesses.stale
    assert len(tree.cosigned) == 1


async def test_only_the_pinned_witness_of_several_signatures_is_taken() -> None:
    witnesses, tree = against(lambda body: (200, signature_of(KEYS[1], body) + signature_of(KEYS[0], body)))
    await witnesses.ask()
    assert [signature.name for _, signatures in tree.cosigned for signature in signatures] == [KEYS[0].name]


async def test_a_witness_that_names_another_size_each_time_is_given_up(tmp_path: Path) -> None:
    sizes = iter(range(1, 12))
    asked: list[int] = []

    def answer(body: bytes) -> tuple[int, bytes]:
        asked.append(parse_submission(body).old)
        return 409, f"{next(sizes)}\n".encode()

    witnesses, _ = against(answer)
    await witnesses.ask()
    assert asked == [0, 1, 2]
    assert witnesses.stale


async def test_a_log_without_a_checkpoint_asks_nobody(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.tree.size = None
    await site.witnesses.ask()
    assert site.net.asked == []
    assert site.witnesses.stale


async def test_a_log_that_cannot_prove_itself_is_stale_and_not_fatal(tmp_path: Path) -> None:
    site = Site(tmp_path)

    def refuse(note: bytes, signatures: object) -> None:
        raise OSError(5, "Input/output error")

    site.tree.add_cosignatures = refuse  # type: ignore[method-assign]
    await site.witnesses.ask()
    assert (site.witnesses.stale, site.witnesses.fatal) == (True, None)
    assert site.witnesses.states()[0].problem == "This log has nothing to send to its witnesses (OSError)."


# --- staleness ---------------------------------------------------------------------------------------------------


async def test_a_log_is_stale_until_it_is_confirmed_and_when_that_is_too_old(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert (site.witnesses.stale, site.witnesses.age_s) == (True, None)
    assert site.witnesses.problem == "Not enough witnesses have confirmed the audit log since the start."
    await site.witnesses.ask()
    site.clock.advance(600_000)
    assert not site.witnesses.stale
    site.clock.advance(1)
    assert site.witnesses.stale
    assert site.witnesses.problem == "Not enough witnesses have confirmed the audit log for 600 s."


@pytest.mark.parametrize(("quorum", "stale"), [(1, False), (2, False), (3, True)])
async def test_the_quorum_decides_how_many_must_answer(tmp_path: Path, quorum: int, stale: bool) -> None:
    site = Site(tmp_path, count=3, quorum=quorum)
    site.net.hosts["w1.test"] = None
    await site.witnesses.ask()
    assert site.witnesses.stale is stale
    assert site.witnesses.size == (None if stale else 12)


async def test_age_and_size_are_those_that_the_whole_quorum_has_reached(tmp_path: Path) -> None:
    site = Site(tmp_path, count=2)
    site.tree.size = 5
    await site.witnesses.ask()
    site.clock.advance(10_000)
    site.net.hosts["w0.test"] = None
    site.tree.size = 9
    await site.witnesses.ask()
    assert (site.witnesses.age_s, site.witnesses.size) == (10.0, 5)
    assert [(state.size, state.age_s) for state in site.witnesses.states()] == [(5, 10.0), (9, 0.0)]


def test_without_witnesses_nothing_is_ever_stale() -> None:
    witnesses = Witnesses(Tree(HONEST), AuditSettings(), FixedClock())
    assert (witnesses.stale, witnesses.age_s, witnesses.size, witnesses.problem) == (False, None, None, None)
    assert not witnesses.blocks(released("R3"))


@pytest.mark.parametrize(
    ("name", "data", "blocked"),
    [
        ("tool_call.released", {"risk": "R0", "profile": "ops"}, False),
        ("tool_call.released", {"risk": "R1", "profile": "ops"}, False),
        ("tool_call.released", {"risk": "R2", "profile": "ops"}, True),
        ("tool_call.released", {"risk": "R3", "profile": "coding"}, True),
        ("tool_call.released", {"risk": "R3", "profile": "observe"}, False),
        ("permit.consumed", {"risk": "R2"}, True),
        ("permit.consumed", {}, True),
        ("permit.redeemed", {"risk": "R0"}, False),
        ("permit.redeemed", {"risk": "R2"}, True),
        ("permit.issued", {"risk": "R3"}, False),
        ("tool_call.held", {"risk": "R3"}, False),
        ("approval.voted", {"risk": "R3"}, False),
        ("generation.finished", {}, False),
    ],
)
def test_what_lets_a_dangerous_call_happen_is_blocked_and_nothing_else(
    name: str, data: dict[str, JsonValue], blocked: bool
) -> None:
    witnesses = Witnesses(Tree(HONEST), settings_of(KEYS), FixedClock())
    assert witnesses.blocks(event(name, **data)) is blocked


# --- at the start ------------------------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: bytes) -> Iterator[WitnessSettings]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield WitnessSettings(url=f"http://127.0.0.1:{server.server_address[1]}", key=str(KEYS[0].verifier))
        server.shutdown()


@pytest.mark.enable_socket
def test_what_a_witness_has_is_read_as_it_is() -> None:
    with answering(200, b"anything") as witness:
        assert newest_at(witness, "log.test/one", 10.0) == b"anything"


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("status", "body", "problem"), [(200, b"x" * 100_000, "more than 65536 bytes"), (503, b"", "answered 503")]
)
def test_a_witness_that_answers_with_something_else_is_an_error(status: int, body: bytes, problem: str) -> None:
    with answering(status, body) as witness, pytest.raises(OSError, match=problem):
        newest_at(witness, "log.test/one", 10.0)


@pytest.mark.enable_socket
def test_a_witness_without_a_checkpoint_is_none() -> None:
    with answering(404, b"none") as witness:
        assert newest_at(witness, "log.test/one", 10.0) is None


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (["nonsense"], "not 'name"),
        ([str(generate_key("w", ED25519).verifier)], "cosignature key"),
        ([str(KEYS[0].verifier), str(SignerKey("other", COSIGNATURE_V1, KEYS[0].seed).verifier)], "one key"),
    ],
)
def test_keys_that_cannot_be_believed_are_refused(keys: list[str], problem: str) -> None:
    with pytest.raises(BadKey, match=problem):
        parse_witness_keys(keys)


# --- the loop ----------------------------------------------------------------------------------------------------


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_loop_asks_at_once_and_again_when_it_is_called(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.tree.size = 5
    site.witnesses.start()
    await eventually(lambda: site.witnesses.size == 5)
    site.tree.size = 9
    await asyncio.to_thread(site.witnesses.soon)
    await eventually(lambda: site.witnesses.size == 9)
    await site.witnesses.close()


async def test_one_call_is_one_more_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnessing, "_GATHER_S", 0.0)
    site = Site(tmp_path)
    site.witnesses.start()
    for rounds in (1, 2, 3):
        await eventually(lambda rounds=rounds: len(site.tree.cosigned) >= rounds)
        await asyncio.sleep(0.05)  # room for a round that nobody called for
        assert len(site.tree.cosigned) == rounds
        site.witnesses.soon()
    await site.witnesses.close()


async def test_the_loop_survives_a_round_that_fails(tmp_path: Path) -> None:
    site = Site(tmp_path)
    take: Callable[[], bytes | None] = site.tree.checkpoint
    failures = 0

    def fail_once() -> bytes | None:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise OSError(5, "Input/output error")
        return take()

    site.tree.checkpoint = fail_once  # type: ignore[method-assign]
    site.witnesses.start()
    await eventually(lambda: failures == 1)
    site.witnesses.soon()
    await eventually(lambda: site.witnesses.size == 12)
    await site.witnesses.close()


async def test_closing_stops_the_loop_and_may_happen_twice(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.witnesses.start()
    await site.witnesses.close()
    await site.witnesses.close()
    asked = len(site.net.asked)
    site.witnesses.soon()
    assert len(site.net.asked) == asked


async def test_without_witnesses_the_loop_does_not_start() -> None:
    before = asyncio.all_tasks()
    witnesses = Witnesses(Tree(HONEST), AuditSettings(), FixedClock())
    witnesses.start()
    witnesses.soon()
    assert asyncio.all_tasks() == before
    closing: Awaitable[None] = witnesses.close()
    await closing
