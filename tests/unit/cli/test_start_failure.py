"""Why a graph did not start: the sentence that helps, wherever it was said."""

import os
from pathlib import Path

from serve_app.cli.start_failure import sentence

PARENT = """The deployment failed to start 3 times in a row. Error:
Traceback (most recent call last):
  File "core.py", line 1320, in wait
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
CAUSE = "ValueError: To serve at least one request with the model's max seq len (16384), 0.01 GiB are needed."
CORE = f"""(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7)     raise ValueError(
(EngineCore pid=7) {CAUSE}
(Deployment pid=3) RuntimeError: Engine core initialization failed. See root cause above.
"""
LOGGED = f"(EngineCore pid=7) ERROR 11-22 22:15:08 [core.py:1374] {CAUSE}\n"
WORKERS = """(Worker_TP1 pid=9) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
(EngineCore pid=7) Exception: WorkerProc initialization failed. See stack trace for root cause.
"""


def write(folder: Path, name: str, text: str, at_s: int) -> None:
    (folder / name).write_text(text)
    os.utime(folder / name, (at_s, at_s))


def test_the_last_line_that_names_an_error(tmp_path: Path) -> None:
    said = "deployments.audit.DamagedLog: record 7 is not what it was"
    text = f"Traceback:\n  File x\nfirst.SomeError: one\n{said}\n  at 3\n"
    assert sentence(["waiting", text], tmp_path) == said


def test_without_an_error_the_last_line_and_without_any_that(tmp_path: Path) -> None:
    assert sentence(["one\ntwo\n", "\n"], tmp_path) == "two"
    assert sentence([], tmp_path) == "unknown reason"


def test_what_an_engine_printed_is_looked_up(tmp_path: Path) -> None:
    for text in (CORE, LOGGED):
        write(tmp_path, "worker-a.err", text, 100)
        assert sentence([PARENT], tmp_path) == CAUSE


def test_of_several_the_newest_with_a_cause(tmp_path: Path) -> None:
    write(tmp_path, "worker-a.err", CORE, 100)
    write(tmp_path, "worker-b.err", WORKERS, 200)
    write(tmp_path, "worker-c.err", "(Deployment pid=3) RuntimeError: Engine core initialization failed.\n", 300)
    write(tmp_path, "worker-d.out", CORE, 400)
    assert sentence([PARENT], tmp_path).startswith("torch.OutOfMemoryError: CUDA out of memory.")


def test_where_no_engine_said_anything_the_parent_is_quoted(tmp_path: Path) -> None:
    expected = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    assert sentence([PARENT], tmp_path) == expected
    assert sentence([PARENT], tmp_path / "gone") == expected


def test_a_sentence_is_no_page(tmp_path: Path) -> None:
    assert len(sentence(["ValueError: " + "x" * 10_000], tmp_path)) == 600
