"""What a witness cosigns, what it refuses, and that no crash makes it contradict itself."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audit.files import replace_file
from deployments.audit.notes import (
    COSIGNATURE_V1,
    ED25519,
    BadKey,
    Signature,
    generate_key,
    parse_checkpoint,
    parse_note,
    sign,
    verify_note,
    write_signer_key,
)
from deployments.audit.witness import (
    HISTORY_FILE,
    MAX_PROOF_LINES,
    MAX_REQUEST_BYTES,
    NEWEST_FILE,
    REFUSED_FILE,
    Answer,
    BadRequest,
    BadState,
    Cosigned,
    OtherSize,
    Reason,
    Refused,
    Submission,
    Witness,
    WitnessFailed,
    WitnessLocked,
    Writes,
    append_line,
    log_id,
    parse_submission,
)
from deployments.clock import FixedClock
from tests.unit.audit.witnesslogs import LOG_KEY, ORIGIN, Tree, open_witness, signed

HONEST = Tree(f"entry {number}".encode() for number in range(12))
FORKED = Tree(f"entry {number}".encode() if number < 4 else f"other {number}".encode() for number in range(12))
FOLDER = Path("logs") / log_id(ORIGIN)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    opened = open_witness(tmp_path)
    yield opened
    opened.close()


def reason(answer: Answer) -> Reason:
    assert isinstance(answer, Refused), answer
    return answer.reason


def cosignature(answer: Answer) -> Signature:
    assert isinstance(answer, Cosigned), answer
    [signature] = answer.signatures
    return signature


def notes_in(file: Path) -> list[tuple[int, bytes]]:
    """Size and root of each checkpoint in a JSON lines file of the witness."""
    found = [parse_note(json.loads(line)["note"].encode()) for line in file.read_bytes().splitlines()]
    return [(checkpoint.size, checkpoint.root) for checkpoint in (parse_checkpoint(note.text) for note in found)]


# --- cosigning ---------------------------------------------------------------------------------------------------


def test_a_first_checkpoint_is_cosigned_with_the_time(witness: Witness) -> None:
    signature = cosignature(witness.add_checkpoint(HONEST.request(0, 5)))
    note = parse_note(HONEST.note(5)).with_signatures([signature])
    [verified] = verify_note(note, [witness.verifier])
    assert verified.time_s == FixedClock().now_ms() // 1000


def test_a_checkpoint_that_extends_the_known_one_is_cosigned(witness: Witness) -> None:
    for old, new in [(0, 3), (3, 4), (4, 11), (11, 12)]:
        cosignature(witness.add_checkpoint(HONEST.request(old, new)))
    assert [state.size for state in witness.status()] == [12]


def test_the_empty_log_is_cosigned(witness: Witness) -> None:
    cosignature(witness.add_checkpoint(HONEST.request(0, 0)))
    cosignature(witness.add_checkpoint(HONEST.request(0, 5)))


def test_the_same_checkpoint_is_cosigned_again_at_the_later_time(tmp_path: Path) -> None:
    clock = FixedClock()
    witness = open_witness(tmp_path, clock)
    witness.add_checkpoint(HONEST.request(0, 5))
    history = (tmp_path / FOLDER / HISTORY_FILE).read_bytes()
    clock.advance(7_000)
    signature = cosignature(witness.add_checkpoint(HONEST.request(5, 5)))
    [verified] = verify_note(parse_note(HONEST.note(5)).with_signatures([signature]), [witness.verifier])
    assert verified.time_s == clock.now_ms() // 1000
    assert (tmp_path / FOLDER / HISTORY_FILE).read_bytes() == history


def test_signatures_of_strangers_are_neither_believed_nor_kept(tmp_path: Path) -> None:
    witness = open_witness(tmp_path)
    stranger = generate_key("stranger.test", ED25519)
    note = parse_note(HONEST.note(5))
    crowded = note.with_signatures([sign(note.text, stranger)])
    cosignature(witness.add_checkpoint(Submission(0, (), crowded.to_bytes()).to_bytes()))
    kept = witness.newest(log_id(ORIGIN))
    assert kept is not None
    assert {signature.name for signature in parse_note(kept).signatures} == {ORIGIN, "w.test/1"}


def test_two_logs_are_kept_apart(tmp_path: Path) -> None:
    other_key = generate_key("log.test/two", ED25519)
    other = Tree([b"x", b"y"], other_key)
    witness = open_witness(tmp_path, log_keys=[LOG_KEY.verifier, other_key.verifier])
    cosignature(witness.add_checkpoint(HONEST.request(0, 5)))
    cosignature(witness.add_checkpoint(other.request(0, 2)))
    assert {state.origin: state.size for state in witness.status()} == {ORIGIN: 5, "log.test/two": 2}


def test_either_of_two_keys_of_one_log_will_do(tmp_path: Path) -> None:
    second = generate_key(ORIGIN, ED25519)
    witness = open_witness(tmp_path, log_keys=[LOG_KEY.verifier, second.verifier])
    cosignature(witness.add_checkpoint(HONEST.request(0, 5)))
    later = Submission(5, tuple(HONEST.proof(5, 9)), signed(9, HONEST.root(9), second))
    cosignature(witness.add_checkpoint(later.to_bytes()))


# --- refusing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [0, 3, 6, 9])
def test_another_old_size_is_answered_with_the_known_one(witness: Witness, old: int) -> None:
    witness.add_checkpoint(HONEST.request(0, 5))
    assert witness.add_checkpoint(HONEST.request(old, 9)) == OtherSize(5)


def test_a_stale_checkpoint_is_not_cosigned(witness: Witness) -> None:
    witness.add_checkpoint(HONEST.request(0, 9))
    assert witness.add_checkpoint(HONEST.request(0, 5)) == OtherSize(9)
    assert witness.add_checkpoint(HONEST.request(5, 5)) == OtherSize(9)


def test_a_fork_of_one_size_is_a_conflict_and_both_notes_are_kept(tmp_path: Path) -> None:
    witness = open_witness(tmp_path)
    witness.add_checkpoint(HONEST.request(0, 9))
    assert witness.add_checkpoint(FORKED.request(9, 9)) == OtherSize(9)
    assert notes_in(tmp_path / FOLDER / HISTORY_FILE) == [(9, HONEST.root(9))]
    assert notes_in(tmp_path / FOLDER / REFUSED_FILE) == [(9, FORKED.root(9))]
    assert [state.refused for state in witness.status()] == [1]


def test_a_fork_that_has_grown_is_inconsistent_and_kept(tmp_path: Path) -> None:
    witness = open_witness(tmp_path)
    witness.add_checkpoint(HONEST.request(0, 9))
    assert reason(witness.add_checkpoint(FORKED.request(9, 12))) is Reason.INCONSISTENT
    assert notes_in(tmp_path / FOLDER / REFUSED_FILE) == [(12, FORKED.root(12))]


def test_evidence_is_kept_once_also_across_a_restart(tmp_path: Path) -> None:
    witness = open_witness(tmp_path)
    witness.add_checkpoint(HONEST.request(0, 9))
    for _ in range(2):
        witness.add_checkpoint(FORKED.request(9, 9))
    witness.close()
    open_witness(tmp_path).add_checkpoint(FORKED.request(9, 9))
    assert len(notes_in(tmp_path / FOLDER / REFUSED_FILE)) == 1


@pytest.mark.parametrize("old", [0, 5])
def test_a_superfluous_proof_is_inconsistent(witness: Witness, old: int) -> None:
    if old:
        witness.add_checkpoint(HONEST.request(0, 5))
    answer = witness.add_checkpoint(Submission(old, (bytes(32),), HONEST.note(5)).to_bytes())
    assert reason(answer) is Reason.INCONSISTENT


def test_every_change_of_a_proof_is_inconsistent(witness: Witness) -> None:
    witness.add_checkpoint(HONEST.request(0, 5))
    proof = HONEST.proof(5, 11)
    for place in range(len(proof)):
        for changed in (
            [*proof[:place], bytes(32), *proof[place + 1 :]],
            [*proof[:place], *proof[place + 1 :]],
            [*proof[:place], bytes(32), *proof[place:]],
        ):
            answer = witness.add_checkpoint(Submission(5, tuple(changed), HONEST.note(11)).to_bytes())
            assert reason(answer) is Reason.INCONSISTENT
    assert [state.size for state in witness.status()] == [5]


def test_a_checkpoint_of_another_log_is_unknown(witness: Witness) -> None:
    other = Tree([b"x"], generate_key("log.test/two", ED25519))
    assert reason(witness.add_checkpoint(other.request(0, 1))) is Reason.UNKNOWN_LOG


def test_a_checkpoint_signed_by_another_key_under_the_name_is_refused(witness: Witness) -> None:
    forger = generate_key(ORIGIN, ED25519)
    answer = witness.add_checkpoint(Submission(0, (), signed(5, HONEST.root(5), forger)).to_bytes())
    assert reason(answer) is Reason.UNKNOWN_KEY


def test_a_bad_signature_of_the_log_is_refused(witness: Witness) -> None:
    note = parse_note(HONEST.note(5))
    forged = note.to_bytes().replace(b"\n5\n", b"\n6\n")
    assert reason(witness.add_checkpoint(Submission(0, (), forged).to_bytes())) is Reason.UNKNOWN_KEY


def test_the_key_of_one_log_does_not_sign_for_another(tmp_path: Path) -> None:
    other_key = generate_key("log.test/two", ED25519)
    witness = open_witness(tmp_path, log_keys=[LOG_KEY.verifier, other_key.verifier])
    crossed = signed(5, HONEST.root(5), other_key, ORIGIN)
    assert reason(witness.add_checkpoint(Submission(0, (), crossed).to_bytes())) is Reason.UNKNOWN_KEY


NOTE = HONEST.note(5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"old 0",
        b"old 0\n",
        b"old 0\n\n",
        b"old 00\n\n" + NOTE,
        b"old -1\n\n" + NOTE,
        b"old\n\n" + NOTE,
        b"old 0 \n\n" + NOTE,
        b"old  0\n\n" + NOTE,
        b"new 0\n\n" + NOTE,
        b"old 9223372036854775808\n\n" + NOTE,
        b"old \xc2\xb20\n\n" + NOTE,
        b"old 0\r\n\r\n" + NOTE,
        b"old 0\nnot base64\n\n" + NOTE,
        b"old 0\nAAAA\n\n" + NOTE,
        b"old 0\n" + NOTE,
        b"old 0\n\n" + NOTE[:-1],
        b"old 0\n\nlog.test/one\n5\n\n",
        b"old 6\n\n" + NOTE,
        b"old 0\n\n" + NOTE + b"\xff\n",
    ],
)
def test_what_is_no_request_is_malformed(witness: Witness, data: bytes) -> None:
    assert reason(witness.add_checkpoint(data)) is Reason.MALFORMED


def test_a_proof_of_more_lines_than_any_has_is_malformed(witness: Witness) -> None:
    at_limit = Submission(0, (bytes(32),) * MAX_PROOF_LINES, NOTE).to_bytes()
    beyond = Submission(0, (bytes(32),) * (MAX_PROOF_LINES + 1), NOTE).to_bytes()
    assert reason(witness.add_checkpoint(at_limit)) is Reason.INCONSISTENT
    assert reason(witness.add_checkpoint(beyond)) is Reason.MALFORMED


def test_a_request_that_is_too_long_is_malformed() -> None:
    with pytest.raises(BadRequest, match="at most"):
        parse_submission(b"o" * (MAX_REQUEST_BYTES + 1))


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=MAX_PROOF_LINES),
    st.sampled_from([HONEST.note(size) for size in range(12)]),
)
def test_a_request_reads_back_as_it_was_written(old: int, proof: list[bytes], note: bytes) -> None:
    submission = Submission(old, tuple(proof), note)
    assert parse_submission(submission.to_bytes()) == submission


@given(st.binary(max_size=300))
def test_any_bytes_are_answered(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    witness = open_witness(tmp_path_factory.mktemp("state"))
    assert reason(witness.add_checkpoint(data)) is Reason.MALFORMED
    witness.close()


# --- keys and state ----------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = open_witness(state)
    first.close()
    again = open_witness(state)
    assert again.verifier == first.verifier
    assert (state / "witness.key").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_key_under_another_name_is_refused(tmp_path: Path) -> None:
    open_witness(tmp_path).close()
    with pytest.raises(BadKey, match=r"is called w\.test/1"):
        Witness(tmp_path, [LOG_KEY.verifier], FixedClock(), name="w.test/2")


def test_a_log_key_is_not_a_witness_key_nor_the_other_way_round(tmp_path: Path) -> None:
    file = tmp_path / "given.key"
    write_signer_key(file, LOG_KEY)
    with pytest.raises(BadKey, match="a key of its own"):
        Witness(tmp_path / "state", [LOG_KEY.verifier], FixedClock(), key_file=file)
    with pytest.raises(BadKey, match="Ed25519"):
        open_witness(tmp_path / "state", log_keys=[generate_key("w", COSIGNATURE_V1).verifier])


def test_a_refused_start_gives_the_lock_back(tmp_path: Path) -> None:
    open_witness(tmp_path).close()
    with pytest.raises(BadKey):
        Witness(tmp_path, [LOG_KEY.verifier], FixedClock(), name="other")
    open_witness(tmp_path).close()


def test_what_was_known_is_known_after_a_restart(tmp_path: Path) -> None:
    before = open_witness(tmp_path)
    before.add_checkpoint(HONEST.request(0, 9))
    before.close()
    after = open_witness(tmp_path)
    assert after.add_checkpoint(FORKED.request(0, 9)) == OtherSize(9)
    assert after.add_checkpoint(FORKED.request(9, 9)) == OtherSize(9)
    cosignature(after.add_checkpoint(HONEST.request(9, 9)))


def test_one_process_has_the_state(tmp_path: Path) -> None:
    witness = open_witness(tmp_path)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from deployments.audit.witness import Witness, WitnessLocked\n"
        "from deployments.clock import SystemClock\n"
        "try:\n    Witness(Path(sys.argv[1]), [], SystemClock())\n"
        "except WitnessLocked as error:\n    print(error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert "another witness runs" in found.stdout
    with pytest.raises(WitnessLocked):
        open_witness(tmp_path)
    witness.close()


def test_a_lost_state_is_not_started_anew(tmp_path: Path) -> None:
    witness = open_witness(tmp_path)
    witness.add_checkpoint(HONEST.request(0, 9))
    witness.close()
    (tmp_path / FOLDER / NEWEST_FILE).unlink()
    with pytest.raises(BadState, match="missing although the witness signed 9 records"):
        open_witness(tmp_path)


def test_a_state_that_went_back_is_refused(tmp_path: Path) -> None:
    witness = open_witness(tmp_path)
    witness.add_checkpoint(HONEST.request(0, 5))
    older = (tmp_path / FOLDER / NEWEST_FILE).read_bytes()
    witness.add_checkpoint(HONEST.request(5, 9))
    witness.close()
    (tmp_path / FOLDER / NEWEST_FILE).write_bytes(older)
    with pytest.raises(BadState, match="5 records although the witness signed 9"):
        open_witness(tmp_path)


def test_a_state_with_another_root_is_refused(tmp_path: Path) -> None:
    for place, tree in (("a", HONEST), ("b", FORKED)):
        witness = open_witness(tmp_path / place)
        witness.add_checkpoint(tree.request(0, 9))
        witness.close()
    forked = (tmp_path / "b" / FOLDER / NEWEST_FILE).read_bytes()
    (tmp_path / "a" / FOLDER / NEWEST_FILE).write_bytes(forked)
    with pytest.raises(BadState, match="another root"):
        open_witness(tmp_path / "a")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"note": 1}', b'{"note": "x"}', b'{"note": "\\ud800"}', b"\xff"])
def test_a_damaged_state_is_refused(tmp_path: Path, data: bytes) -> None:
    witness = open_witness(tmp_path)
    witness.add_checkpoint(HONEST.request(0, 9))
    witness.close()
    (tmp_path / FOLDER / NEWEST_FILE).write_bytes(data)
    with pytest.raises(BadState):
        open_witness(tmp_path)


def test_a_state_of_another_log_is_refused(tmp_path: Path) -> None:
    other_key = generate_key("log.test/two", ED25519)
    witness = open_witness(tmp_path, log_keys=[LOG_KEY.verifier, other_key.verifier])
    witness.add_checkpoint(HONEST.request(0, 9))
    witness.close()
    other = tmp_path / "logs" / log_id("log.test/two")
    (other / NEWEST_FILE).write_bytes((tmp_path / FOLDER / NEWEST_FILE).read_bytes())
    with pytest.raises(BadState, match="another log"):
        open_witness(tmp_path, log_keys=[LOG_KEY.verifier, other_key.verifier])


def test_a_torn_last_line_of_the_history_is_cut_off_and_nothing_else(tmp_path: Path) -> None:
    witness = open_witness(tmp_path)
    witness.add_checkpoint(HONEST.request(0, 5))
    witness.add_checkpoint(HONEST.request(5, 9))
    witness.close()
    file = tmp_path / FOLDER / HISTORY_FILE
    whole = file.read_bytes()
    first = whole[: whole.index(b"\n") + 1]
    for cut in range(len(first), len(whole)):
        file.write_bytes(whole[:cut])
        open_witness(tmp_path).close()
        assert notes_in(file) == [(5, HONEST.root(5)), (9, HONEST.root(9))]


# --- crashes -----------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


class CrashingDisk:
    """Ends the process at the n-th of the points before, within and after each write."""

    def __init__(self, crash_at: int | None) -> None:
        self.left = crash_at

    def _point(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Crash

    def replace(self, path: Path, data: bytes) -> None:
        self._point()
        replace_file(path, data)
        self._point()

    def append(self, path: Path, data: bytes) -> None:
        self._point()
        if self.left == 0:
            append_line(path, data[: len(data) // 2])
        self._point()
        append_line(path, data)
        self._point()

    def writes(self) -> Writes:
        return Writes(self.replace, self.append)


@pytest.mark.parametrize("crash_at", range(5))
def test_a_crash_anywhere_between_compare_and_answer_leaves_no_room_for_a_fork(tmp_path: Path, crash_at: int) -> None:
    witness = open_witness(tmp_path, writes=CrashingDisk(crash_at).writes())
    with pytest.raises(Crash):
        witness.add_checkpoint(HONEST.request(0, 9))
    witness.close()
    after = open_witness(tmp_path)
    known = after.status()[0].size
    assert known == (0 if crash_at == 0 else 9)
    answer = after.add_checkpoint(FORKED.request(known, 9))
    assert isinstance(answer, Cosigned if known == 0 else OtherSize)
    roots = {root for size, root in notes_in(tmp_path / FOLDER / HISTORY_FILE) if size == 9}
    assert len(roots) == 1


def test_after_a_failed_write_nothing_is_signed_any_more(tmp_path: Path) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    witness = open_witness(tmp_path, writes=Writes(replace=refuse))
    for request in (HONEST.request(0, 9), HONEST.request(0, 0)):
        with pytest.raises(WitnessFailed, match="No space left on device"):
            witness.add_checkpoint(request)
    assert witness.failure is not None
    witness.close()
    cosignature(open_witness(tmp_path).add_checkpoint(HONEST.request(0, 9)))


STEPS = st.lists(
    st.tuples(
        st.sampled_from([HONEST, FORKED, Tree([b"third"] * 12)]),
        st.one_of(st.none(), st.integers(0, 12)),  # the old size; None: the one the witness knows
        st.integers(0, 12),
        st.one_of(st.none(), st.integers(0, 4)),  # where the process ends, if it does
    ),
    max_size=25,
)


@settings(max_examples=1_000, deadline=None)
@given(STEPS)
def test_no_two_roots_of_one_size_are_ever_cosigned(steps: list[tuple[Tree, int | None, int, int | None]]) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        signatures: dict[int, set[bytes]] = {}
        lineage: list[tuple[int, bytes]] = []
        witness = open_witness(directory)
        for tree, old, new, crash_at in steps:
            known = witness.status()[0].size
            start = known if old is None else old
            proof = tree.proof(start, new) if start <= new else []
            request = Submission(start, tuple(proof), tree.note(new)).to_bytes()
            if crash_at is not None:
                witness.close()
                witness = open_witness(directory, writes=CrashingDisk(crash_at).writes())
            try:
                answer = witness.add_checkpoint(request)
            except Crash:
                answer = None
                witness.close()
                witness = open_witness(directory)
            if isinstance(answer, Cosigned):
                verify_note(parse_note(tree.note(new)).with_signatures(answer.signatures), [witness.verifier])
                signatures.setdefault(new, set()).add(tree.root(new))
                lineage.append((new, tree.root(new)))
        witness.close()
        file = directory / FOLDER / HISTORY_FILE
        for size, root in notes_in(file) if file.exists() else []:
            signatures.setdefault(size, set()).add(root)
        assert all(len(roots) == 1 for roots in signatures.values())
        assert [size for size, _ in lineage] == sorted(size for size, _ in lineage)


def test_of_two_forks_that_arrive_at_once_one_is_cosigned(tmp_path: Path) -> None:
    requests = [tree.request(0, 9) for tree in (HONEST, FORKED, HONEST, FORKED)]
    for number in range(20):
        witness = open_witness(tmp_path / str(number))
        gate = threading.Barrier(len(requests))

        def send(request: bytes, witness: Witness = witness, gate: threading.Barrier = gate) -> Answer:
            gate.wait()
            return witness.add_checkpoint(request)

        with ThreadPoolExecutor(len(requests)) as pool:
            answers = list(pool.map(send, requests))
        assert [type(answer) for answer in answers].count(Cosigned) == 1  # the others' old size is no longer the known
        assert set(answers) - {OtherSize(9)} == {next(found for found in answers if isinstance(found, Cosigned))}
        witness.close()
