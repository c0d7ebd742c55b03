import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from deployments.audit.chain import leaf_hash
from deployments.audit.head import HEAD_FILE
from deployments.audit.segment import segment_paths
from deployments.audit.tiles import entries_path, tile_path
from deployments.audit.verify import CHECKS
from serve_app.cli.audit import app
from tests.unit.audit.handmade import (
    KEY,
    WITNESSES,
    GatedFlow,
    announced,
    entries_of,
    honest,
    lay_export,
    lay_segments,
    lay_tiles,
    made,
    note_of,
    route,
)
from tests.unit.audit.logs import event, open_log, routed, write_log

runner = CliRunner()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path / "audit", [announced(), routed(1), *GatedFlow().whole()])
    return tmp_path / "audit"


@pytest.fixture(scope="module")
def entries() -> list[bytes]:
    return entries_of(honest(300))


@pytest.fixture
def sealed(tmp_path: Path, entries: list[bytes]) -> Path:
    lay_segments(tmp_path / "audit", entries)
    lay_tiles(tmp_path / "audit", entries, [320], WITNESSES)
    return tmp_path / "audit"


def test_verify_says_so_in_json_and_status(log: Path) -> None:
    done = runner.invoke(app, ["verify", str(log), "--checkpoint", str(log / HEAD_FILE)])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["ok"] is True


def test_verify_exits_1_when_the_evidence_is_broken(log: Path) -> None:
    path = segment_paths(log)[0]
    path.write_bytes(path.read_bytes().replace(b"demo-20b", b"demo-99b"))
    done = runner.invoke(app, ["verify", str(log)])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["checks"][0]["ok"] is False


@pytest.mark.parametrize("arguments", [["nowhere"], ["LOG", "--head", "nowhere"]])
def test_verify_exits_2_with_one_sentence_when_there_is_nothing_to_check(log: Path, arguments: list[str]) -> None:
    done = runner.invoke(app, ["verify", *(str(log) if word == "LOG" else word for word in arguments)])
    assert done.exit_code == 2
    assert done.stderr.startswith("gatehouse: ")
    assert done.stderr.count("\n") == 1


def test_show_prints_the_newest_records_that_match(log: Path) -> None:
    done = runner.invoke(app, ["show", str(log), "--json", "--limit", "2", "--request-id", "req_1"])
    names = [json.loads(line)["name"] for line in done.stdout.splitlines()]
    assert names == ["tool_call.released", "action.reported"]
    done = runner.invoke(app, ["show", str(log), "--json", "--oldest", "--name", "route.decided"])
    assert [json.loads(line)["data"]["model"] for line in done.stdout.splitlines()] == ["demo-20b"]


def test_show_prints_a_line_a_record_and_no_control_character_reaches_the_terminal(tmp_path: Path) -> None:
    write_log(tmp_path, [event("tool_call.proposed", "e", gate_call_id="g", tool="\x1b[31mred [bold]")])
    done = runner.invoke(app, ["show", str(tmp_path)])
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 2
    assert "\x1b[31m" not in done.stdout
    assert "\\x1b[31mred [bold]" in done.stdout


def test_show_exits_2_without_a_log(tmp_path: Path) -> None:
    assert runner.invoke(app, ["show", str(tmp_path)]).exit_code == 2


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--tenant", "acme"], [1, 3, 4]),
        (["--tenant", "nobody"], []),
        (["--session", "s_1"], [1, 2, 3, 4]),
        (["--session", "s_2"], []),
        (["--change-id", "CHG-7"], [3]),
        (["--since", "3"], [3, 4]),
        (["--since", "3", "--limit", "1"], [4]),
        (["--since", "3", "--limit", "1", "--oldest"], [3]),
        (["--limit", "2"], [3, 4]),
        (["--name", "route.decided", "--limit", "2", "--oldest"], [1, 4]),
    ],
)
def test_show_filters(tmp_path: Path, options: list[str], shown: list[int]) -> None:
    planned = made("approval.planned", "p", {"approval_id": "a", "action_digest": "1" * 64, "change_id": "CHG-7",
                                             "rollback_digest": "2" * 64})  # fmt: skip
    write_log(tmp_path, [route(1), announced(), planned, route(2)])
    done = runner.invoke(app, ["show", str(tmp_path), "--json", *options])
    assert [json.loads(line)["sequence"] for line in done.stdout.splitlines()] == shown


def test_show_reads_an_export(tmp_path: Path, entries: list[bytes]) -> None:
    lay_export(tmp_path, entries, [300])
    done = runner.invoke(app, ["show", str(tmp_path), "--json", "--limit", "2"])
    assert [json.loads(line)["sequence"] for line in done.stdout.splitlines()] == [298, 299]


def test_show_still_shows_the_newest_of_a_log_that_is_shorter_than_its_head(log: Path) -> None:
    (log / HEAD_FILE).write_text(json.dumps({"size": 10_000, "head_hash": "1" * 64}))
    done = runner.invoke(app, ["show", str(log), "--json", "--limit", "1"])
    assert json.loads(done.stdout)["name"] == "action.reported"


def test_verify_takes_keys_quorum_receipts_and_grace(sealed: Path, entries: list[bytes], tmp_path: Path) -> None:
    keys, receipt = tmp_path / "keys", tmp_path / "receipt"
    keys.write_text("".join(f"{key.verifier}\n" for key in (KEY, *WITNESSES)))
    receipt.write_text(json.dumps({"index": 3, "leaf_hash": leaf_hash(entries[3]).hex()}))
    options = ["--key", f"@{keys}", "--quorum", "2", "--receipt", str(receipt), "--grace", "5"]
    done = runner.invoke(app, ["verify", str(sealed), *options, "--checkpoint", str(sealed / "checkpoint")])
    assert done.exit_code == 0, done.stdout
    summary = json.loads(done.stdout)
    assert (summary["key_pinned"], summary["witnesses_pinned"], summary["witnessed_size"]) == (True, True, 320)
    assert (summary["receipts"], summary["checkpoints"]) == (1, 2)
    receipt.write_text(json.dumps({"index": 4, "leaf_hash": leaf_hash(entries[3]).hex()}))
    assert runner.invoke(app, ["verify", str(sealed), *options]).exit_code == 1
    assert runner.invoke(app, ["verify", str(sealed), "--quorum", "3"]).exit_code == 1
    assert runner.invoke(app, ["verify", str(sealed), "--key", "nonsense"]).exit_code == 2
    assert runner.invoke(app, ["verify", str(sealed), "--key", f"@{tmp_path}/none"]).exit_code == 2


# --- prove -------------------------------------------------------------------------------------------------------


def _prove(*words: object) -> tuple[int, str, str]:
    done = runner.invoke(app, ["prove", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("exported", [False, True])
def test_a_proof_that_was_made_is_checked_with_the_key_alone(
    sealed: Path, entries: list[bytes], tmp_path: Path, exported: bool
) -> None:
    source = sealed
    if exported:
        source = tmp_path / "export"
        lay_export(source, entries, [320])
    out, entry = tmp_path / "proof", tmp_path / "entry"
    entry.write_bytes(entries[7])
    assert _prove(source, 7, "--out", out)[0] == 0
    assert _prove(source, 7)[1].encode() == out.read_bytes()
    for given in (["--leaf", leaf_hash(entries[7]).hex()], ["--entry", entry]):
        status, text, _ = _prove("--check", out, "--key", KEY.verifier, *given)
        assert status == 0
        found = json.loads(text)
        assert (found["index"], found["size"], found["leaf_hash"]) == (7, 320, leaf_hash(entries[7]).hex())
    assert _prove("--check", out, "--key", KEY.verifier, "--leaf", leaf_hash(entries[8]).hex())[0] == 1


def test_a_proof_may_carry_its_record(sealed: Path, entries: list[bytes], tmp_path: Path) -> None:
    out = tmp_path / "proof"
    assert _prove(sealed, 7, "--with-record", "--out", out)[0] == 0
    status, text, _ = _prove("--check", out, "--key", KEY.verifier)
    assert (status, json.loads(text)["record"]) == (0, entries[7].decode())
    # A record that is not the proven one is neither proven nor shown.
    status, text, _ = _prove("--check", out, "--key", KEY.verifier, "--leaf", leaf_hash(entries[8]).hex())
    assert (status, text) == (1, "")
    forged = out.read_bytes().replace(b"extra ", b"extra AAAA", 1)
    out.write_bytes(forged)
    assert _prove("--check", out, "--key", KEY.verifier)[0] == 1
    assert "record" not in json.loads(_prove("--check", out, "--key", KEY.verifier, "--leaf",
                                             leaf_hash(entries[7]).hex())[1])  # fmt: skip


def test_witnesses_that_are_pinned_must_have_signed_a_proof(sealed: Path, entries: list[bytes], tmp_path: Path) -> None:
    out, keys = tmp_path / "proof", ["--key", KEY.verifier, "--key", WITNESSES[0].verifier]
    leaf = leaf_hash(entries[7]).hex()
    _prove(sealed, 7, "--out", out)
    found = json.loads(_prove("--check", out, *keys, "--leaf", leaf)[1])
    assert [each["name"] for each in found["witnesses"]] == [WITNESSES[0].name]
    lay_tiles(sealed, entries, [320])
    _prove(sealed, 7, "--out", out)
    assert _prove("--check", out, *keys, "--leaf", leaf)[0] == 1
    assert _prove("--check", out, *keys, "--leaf", leaf, "--quorum", 0)[0] == 0


@pytest.mark.parametrize("damaged", [tile_path(0, 0), entries_path(0), tile_path(1, 0, 1), "checkpoint", "log.vkey"])
def test_nothing_wrong_is_proven(sealed: Path, entries: list[bytes], tmp_path: Path, damaged: str) -> None:
    out = tmp_path / "proof"
    data = bytearray((sealed / damaged).read_bytes())
    places = {tile_path(0, 0): 7 * 32, entries_path(0): data.find(entries[7]) + 5}
    data[places.get(damaged, len(data) // 2)] ^= 1
    (sealed / damaged).write_bytes(data)
    status, _, said = _prove(sealed, 7 if damaged != tile_path(1, 0, 1) else 300, "--out", out)
    assert status in (1, 2)
    assert said.startswith("gatehouse: ")
    assert not out.exists()


def test_a_checkpoint_of_another_key_proves_nothing(sealed: Path, tmp_path: Path) -> None:
    (sealed / "checkpoint").write_bytes(note_of(320, b"\x07" * 32))
    status, _, said = _prove(sealed, 7)
    assert (status, said.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["LOG"],
        ["nowhere", "1"],
        ["LOG", "320"],
        ["--check", "PROOF"],
        ["--check", "nowhere", "--key", "KEY"],
        ["--check", "PROOF", "--key", "KEY"],
        ["--check", "PROOF", "--key", "KEY", "--leaf", "00"],
        ["--check", "PROOF", "--key", "KEY", "--leaf", "0" * 64, "--entry", "nowhere"],
        ["--check", "PROOF", "--key", "WITNESS", "--leaf", "0" * 64],
        ["--check", "PROOF", "--key", "KEY", "--leaf", "0" * 64, "--quorum", "1"],
    ],
)
def test_what_cannot_be_proven_or_checked_is_said_in_one_sentence(
    sealed: Path, tmp_path: Path, words: list[str]
) -> None:
    proof = tmp_path / "proof"
    _prove(sealed, 7, "--out", proof)
    names = {"LOG": sealed, "PROOF": proof, "KEY": KEY.verifier, "WITNESS": WITNESSES[0].verifier}
    status, _, said = _prove(*(names.get(word, word) for word in words))
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("gatehouse: ")


# --- follow ------------------------------------------------------------------------------------------------------


@contextmanager
def _follow(*words: object) -> Iterator["subprocess.Popen[str]"]:
    # A test run in the background of a shell has SIGINT ignored, and its children would have, too.
    code = (
        "import signal, sys; from serve_app.cli.audit import app\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "app(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "follow", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_follow_prints_what_is_written_and_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    writer = open_log(tmp_path)
    for number in range(30):
        writer.commit([[routed(number)]])
    writer.record_head()
    with _follow(tmp_path, "--from", 25, "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        shown = [json.loads(process.stdout.readline())["sequence"] for _ in range(6)]
        for number in range(30, 60):
            writer.commit([[routed(number)]])
        writer.record_head()
        shown += [json.loads(process.stdout.readline())["sequence"] for _ in range(30)]
        assert shown == list(range(25, 61))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""
    writer.close()


def test_follow_begins_at_the_newest_ten_and_filters(tmp_path: Path) -> None:
    events = [routed(number) for number in range(20)]
    write_log(tmp_path, [*events, event("tool_call.proposed", "e", gate_call_id="g", tool="\x1b[31mred")])
    with _follow(tmp_path, "--name", "tool_call.proposed") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert line.split()[0] == "21"
    assert "\\x1b[31mred" in line
    with _follow(tmp_path, "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())["sequence"]
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert first == 12


def test_follow_exits_2_for_what_nobody_writes_to(tmp_path: Path, entries: list[bytes]) -> None:
    lay_export(tmp_path / "export", entries, [3])
    for path in (tmp_path / "export", tmp_path / "nowhere"):
        done = runner.invoke(app, ["follow", str(path)])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


def test_verifying_needs_no_ray(log: Path) -> None:
    code = (
        "import sys; from serve_app.cli.audit import app\n"
        "try: app(['verify', sys.argv[1]])\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "assert 'ray' not in sys.modules and 'sqlalchemy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the document ------------------------------------------------------------------------------------------------


def test_the_document_names_every_check_and_only_options_that_exist() -> None:
    text = Path("docs/audit-verify.md").read_text()
    rows = [
        line.split("|")[1:3] for line in text.splitlines() if line.startswith(("| 1", "| 2")) or line[2:3].isdigit()
    ]
    named = {int(number): name.strip() for number, name in rows if number.strip().isdigit()}
    assert named == dict(enumerate(CHECKS, start=1))
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    lines = [line.split() for line in text.splitlines() if line.startswith("gatehouse audit ")]
    assert {words[2] for words in lines} == {"verify", "prove", "show", "follow"}
    for words in lines:
        known = {option for parameter in group.commands[words[2]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words
    options = {option for parameter in group.commands["verify"].params for option in parameter.opts}
    assert all(option in text for option in options - {"path", "--head"})
