"""`gatehouse gate`: the classifier without a server. JSON lines in, JSON lines out."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from deployments.gate.bundle import DEFAULT_BUNDLE, count_examples, load_bundle
from deployments.gate.canonical import Rejected, canonicalise
from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tables import Outcome
from deployments.ports import GateProfile, JsonValue, Risk
from serve_app.cli.client import fail
from serve_app.config import DEFAULT_STATE_DIR

app = typer.Typer(help="Classify tool calls and check policy bundles; needs no server.", no_args_is_help=True)
bundle_app = typer.Typer(help="Policy bundles.", no_args_is_help=True)
app.add_typer(bundle_app, name="bundle")

WORKERS = 4  # each line waits for a short-lived parser process, so a few in flight keep both cores busy
IN_FLIGHT = 64
MARKS = "policy-marks"  # in the state directory, where a replica keeps them too
PARSER_TIMEOUT_S = 5.0  # nobody waits for a file: a busy machine must not make holds

_Bundle = Annotated[str, typer.Option("--bundle", help="A bundle's name in configs/policies, or its file.")]


@app.command()
def classify(
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Read and write JSON lines (the only form).")] = True,
    bundle: _Bundle = DEFAULT_BUNDLE,
    profile: Annotated[GateProfile, typer.Option(help="The gate profile to judge under.")] = GateProfile.OPS,
) -> None:
    """Classify `{"id", "tool", "arguments"}` lines from standard input, in order.

    Answers `{"id", "risk", "outcome", "reasons"}` per line; a line that cannot be read is answered with "hold".
    """
    del jsonl
    marks = DEFAULT_STATE_DIR / MARKS if DEFAULT_STATE_DIR.is_dir() else None
    classifier = Classifier(_load(bundle, marks), ShellReader(PARSER_TIMEOUT_S))
    for row in rows(classifier, sys.stdin.buffer, profile):
        sys.stdout.write(json.dumps(row, ensure_ascii=True) + "\n")
    sys.stdout.flush()


@bundle_app.command("check")
def check(bundle: Annotated[str, typer.Argument(help="A bundle's name, or its file.")] = DEFAULT_BUNDLE) -> None:
    """Load a bundle with all its checks and examples, and print its digest."""
    loaded = _load(bundle)
    typer.echo(f"{loaded.name}: sound, {len(loaded.own_rules)} rules, {count_examples(loaded)} examples passed")
    typer.echo(f"policy digest {loaded.policy_digest}")


def rows(classifier: Classifier, lines: Iterable[bytes], profile: GateProfile) -> Iterator[dict[str, JsonValue]]:
    """One answer per non-empty line, in order; a bounded number of lines is worked on at once."""
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: deque[Future[dict[str, JsonValue]]] = deque()
        for line in lines:
            if not line.strip():
                continue
            waiting.append(pool.submit(_row, classifier, line, profile))
            if len(waiting) >= IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _row(classifier: Classifier, line: bytes, profile: GateProfile) -> dict[str, JsonValue]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return _held(None, "the line is not UTF-8")
    decoded = canonicalise(text)
    if isinstance(decoded, Rejected):
        return _held(_id(text), f"the line cannot be read: {decoded.reason}")
    row = decoded.value
    tool, arguments = row.get("tool"), row.get("arguments")
    if not isinstance(tool, str) or not isinstance(arguments, str | dict):
        return _held(row.get("id"), "the line lacks a tool or its arguments")
    found = classifier.classify(tool, arguments, profile)
    return {
        "id": row.get("id"),
        "risk": found.risk.value,
        "outcome": found.outcome.value,
        "reasons": list(found.reasons),
    }


def _held(line_id: JsonValue, why: str) -> dict[str, JsonValue]:
    return {"id": line_id, "risk": Risk.R2.value, "outcome": Outcome.HOLD.value, "reasons": [why]}


def _id(text: str) -> JsonValue:
    """The id of a line that has no canonical form, if it can be told at all."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = cast("dict[str, Any]", value).get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str | int) else None


def _load(name_or_path: str, marks: Path | None = None) -> Bundle:
    try:
        return load_bundle(name_or_path, marks)
    except BundleError as error:
        fail(f"the bundle is refused: {error}.")
