"""`gatehouse policy`: everything a maintainer of a policy does with it. Needs no server.

Exit status of every command: 0 as it should be, 1 a finding, 2 nothing could be looked at.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer

from deployments.gate.bundle import DEFAULT_BUNDLE, bundle_path, count_examples, example_faults
from deployments.gate.canonical import Rejected, canonicalise
from deployments.gate.cases import Case, case_faults, read_cases
from deployments.gate.circumstances import Circumstances
from deployments.gate.diff import Direction, differences, moved
from deployments.gate.display import escaped
from deployments.gate.explain import Explanation, Step, as_json, explain
from deployments.gate.grammar import BundleError
from deployments.gate.lint import lint
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.gate.signature import check_signature, sign, signature_path
from deployments.gate.tools.schema import schema_digest
from deployments.ports import GateProfile, JsonValue
from serve_app.cli import policy_replay
from serve_app.cli.offline import fail

app = typer.Typer(help="Check, explain, compare and sign policy bundles; needs no server.", no_args_is_help=True)
policy_replay.register(app)

PARSER_TIMEOUT_S = 5.0  # nobody waits for a file: a busy machine must not make holds
MAX_INPUT = 1024 * 1024

_Bundle = Annotated[str, typer.Argument(help="A bundle's name in configs/policies, or its file.")]
_BundleOption = Annotated[str, typer.Option("--bundle", help="A bundle's name in configs/policies, or its file.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]
_Cases = Annotated[
    Path | None, typer.Option("--cases", help="JSON lines: {command | tool + arguments, risk?, outcome?, profile?}.")
]
_Profile = Annotated[GateProfile, typer.Option(help="The gate profile to judge under.")]


@app.command("test")
def check_bundle(bundle: _Bundle = DEFAULT_BUNDLE, cases: _Cases = None, json_: _Json = False) -> None:
    """Load a bundle with every check, run all examples of its rules, and the cases of a file of your own."""
    faults: list[str] = []
    loaded: Bundle | None = None
    given = _read_cases(cases)
    try:
        loaded = read_policy(_existing(bundle))
        faults = example_faults(loaded) + case_faults(loaded, given)
        base = loaded.base
        while base is not None:
            faults += [f"{base.name}: {fault}" for fault in example_faults(base)]
            base = base.base
    except BundleError as error:
        faults = [str(error)]
    examples = 0 if loaded is None else count_examples(loaded)
    if json_:
        _print({
            "bundle": bundle if loaded is None else loaded.name,
            "policy_digest": None if loaded is None else loaded.policy_digest,
            "rules": 0 if loaded is None else len(loaded.own_rules),
            "examples": examples,
            "cases": len(given),
            "faults": list[JsonValue](faults),
        })  # fmt: skip
    elif loaded is not None and not faults:
        typer.echo(f"{loaded.name}: sound, {len(loaded.own_rules)} rules, {examples} examples, {len(given)} cases")
        typer.echo(f"policy digest {loaded.policy_digest}")
    else:
        _print_lines(faults)
    raise typer.Exit(1 if faults else 0)


@app.command("lint")
def lint_bundle(
    bundle: _Bundle = DEFAULT_BUNDLE,
    examples: Annotated[bool, typer.Option(help="Also what needs every example to be judged (seconds).")] = True,
    check: Annotated[list[str] | None, typer.Option(help="Only findings of these checks.")] = None,
    json_: _Json = False,
) -> None:
    """Say what is allowed in a bundle, but hardly meant."""
    found = [each for each in lint(_load(bundle), examples) if not check or each.check in check]
    if json_:
        _print({"findings": [cast("dict[str, JsonValue]", asdict(each)) for each in found]})
    else:
        _print_lines([f"{each.check}: {each.where}: {each.what}" for each in found])
        typer.echo(f"{len(found)} findings")
    raise typer.Exit(1 if found else 0)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="The bundle as it is.")],
    new: Annotated[str, typer.Argument(help="The bundle as it would be.")],
    cases: _Cases = None,
    allow: Annotated[bool, typer.Option("--allow", help="Looser differences are meant: exit 0.")] = False,
    json_: _Json = False,
) -> None:
    """Say what a change of a bundle means; exit 1 when it may let calls pass that were held.

    With cases, the calls themselves decide that: differences that are not clear count only without them.
    """
    before, after = _load(old), _load(new)
    given = _read_cases(cases)
    found, calls = differences(before, after), moved(before, after, given)
    clear = [each for each in found if each.direction is Direction.LOOSER]
    loose = bool(clear) or any(each.direction is Direction.LOOSER for each in calls)
    if not given:
        loose = loose or any(each.direction is Direction.UNCLEAR for each in found)
    if json_:
        _print({
            "old": before.policy_digest,
            "new": after.policy_digest,
            "looser": loose,
            "differences": [cast("dict[str, JsonValue]", asdict(each)) for each in found],
            "cases": len(given),
            "moved": [
                {
                    "direction": each.direction.value,
                    "line": each.case.line,
                    "call": each.case.shown,
                    "profile": each.case.profile.value,
                    "from": {"risk": each.before[0].value, "outcome": each.before[1]},
                    "to": {"risk": each.after[0].value, "outcome": each.after[1]},
                    "reasons": list[JsonValue](each.reasons),
                }
                for each in calls
            ],
        })  # fmt: skip
    else:
        for difference in found:
            name = f" {difference.name}" if difference.name else ""
            _print_lines([f"{difference.direction.value:>8}  {difference.part}{name}: {difference.what}"])
        for call in calls:
            change = f"{call.before[0].value} {call.before[1]} -> {call.after[0].value} {call.after[1]}"
            _print_lines([f"{call.direction.value:>8}  line {call.case.line}: {change}: {call.case.shown}"])
        typer.echo(f"{len(found)} differences, {len(calls)} of {len(given)} cases come out otherwise")
    raise typer.Exit(1 if loose and not allow else 0)


@app.command("explain")
def explain_call(
    call: Annotated[
        str | None, typer.Argument(help="A command line; with --tool, its arguments as JSON; `-`: standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read the call from here instead.")] = None,
    tool: Annotated[str | None, typer.Option(help="The tool; without it the call is a shell command.")] = None,
    bundle: _BundleOption = DEFAULT_BUNDLE,
    profile: _Profile = GateProfile.OPS,
    recovered: Annotated[bool, typer.Option("--recovered", help="As if repaired from malformed output.")] = False,
    untrusted: Annotated[bool, typer.Option("--untrusted", help="As if text from outside were around.")] = False,
    tenant: Annotated[str | None, typer.Option(help="As if for this tenant.")] = None,
    agent: Annotated[str | None, typer.Option(help="As if by this client software.")] = None,
    json_: _Json = False,
) -> None:
    """Say why a call is worth what it is: commands, rules, targets, the cell of the table, and each profile's outcome.

    A file (or standard input) holds a command line, or one JSON object `{"tool", "arguments"}` or `{"command"}`.
    Exit status 0 when the profile would release it, 1 when not.
    """
    if (call is None) == (file is None):
        fail("give a call, `-`, or --file FILE.")
    name, arguments = _call(call, file, tool)
    circumstances = Circumstances(recovered=recovered, untrusted=untrusted, tenant=tenant, agent=agent)
    found = explain(_load(bundle), name, arguments, profile, circumstances, ShellReader(PARSER_TIMEOUT_S))
    if json_:
        _print(as_json(found))
    else:
        _print_lines(_told(found))
    released = any(each.profile is profile and each.outcome == "release" for each in found.verdicts)
    raise typer.Exit(0 if released and found.arguments is not None else 1)


@app.command("tool-schema")
def tool_schema(
    file: Annotated[Path, typer.Argument(help="The tool as a client offers it, or its JSON schema; `-`: stdin.")],
    json_: _Json = False,
) -> None:
    """Print the digest by which a tool's schema is registered in a bundle.

    Takes the schema itself, or a whole tool: then `parameters` (OpenAI), `input_schema` (Anthropic) or `inputSchema`
    (MCP) is the schema.
    """
    said = canonicalise(_text(file))
    if isinstance(said, Rejected):
        fail(f"{file} holds no strict JSON object: {said.reason}")
    value = said.value
    inner = value.get("function")
    value = inner if isinstance(inner, dict) else value
    schema = next((value[name] for name in ("parameters", "input_schema", "inputSchema") if name in value), value)
    if not isinstance(schema, dict):
        fail(f"{file} holds no JSON schema.")
    digest = schema_digest(schema)
    named = value.get("name")
    if json_:
        _print({"name": named if isinstance(named, str) else None, "schema_digest": digest})
    else:
        typer.echo(digest)


@app.command("sign")
def sign_bundle(
    bundle: _Bundle,
    key: Annotated[Path, typer.Option("--key", help="An Ed25519 private key in PEM, mode 0600.")],
    json_: _Json = False,
) -> None:
    """Sign a bundle that loads and passes its examples; writes BUNDLE.yaml.sig beside it."""
    path = _existing(bundle)
    loaded = _load(bundle)
    faults = example_faults(loaded)
    if faults:
        fail(f"a bundle with failing examples is not signed: {faults[0]}", 1)
    try:
        content = sign(loaded.policy_digest, key)
        beside = signature_path(path)
        temporary = beside.with_name(f"{beside.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(beside)
    except BundleError as error:
        fail(f"{error}.")
    except OSError as error:
        fail(f"{signature_path(path)} cannot be written: {error.strerror}.")
    if json_:
        _print({"policy_digest": loaded.policy_digest, "signature": str(signature_path(path))})
    else:
        typer.echo(f"signed {loaded.policy_digest} in {signature_path(path)}")


@app.command()
def verify(
    bundle: _Bundle,
    key: Annotated[Path, typer.Option("--key", help="The Ed25519 public key in PEM.")],
    json_: _Json = False,
) -> None:
    """Say whether the holder of a key has signed exactly this bundle."""
    loaded = _load(bundle)
    try:
        signer = check_signature(loaded.policy_digest, bundle_path(bundle), key)
    except BundleError as error:
        fail(f"{error}.", 1)
    if json_:
        _print({"policy_digest": loaded.policy_digest, "key_id": signer})
    else:
        typer.echo(f"{loaded.policy_digest} is signed by {signer}")


def _told(found: Explanation) -> list[str]:
    lines = [f"{found.risk.value}  {found.tool}", f"policy {found.policy} {found.policy_digest}"]
    if found.arguments is None:
        lines.append("its arguments have no canonical form, so it can never be released")
    if found.risk_alone is not found.risk:
        lines.append(f"raised from {found.risk_alone.value} by the circumstances of the call")
    lines += [f"reads as shell: {text}" for text in found.scripts]
    for number, step in enumerate(found.steps, start=1):
        lines += _step(number, step)
    if found.preview is not None:
        lines += ["changes:", *(f"    {line}" for line in found.preview.split("\n"))]
    lines.append("because:")
    lines += [f"    {reason}" for reason in found.reasons]
    for verdict in found.verdicts:
        plan = f", covered by the standing plan {verdict.change_id}" if verdict.covered else ""
        lines.append(f"under {verdict.profile.value}: {verdict.risk.value}, {verdict.outcome}{plan}")
    return lines


def _step(number: int, step: Step) -> list[str]:
    covered = ", covered" if step.covered else ""
    lines = [f"{number}. {step.command or '(the call)'}"]
    lines.append(
        f"    {step.risk.value}{covered} by {step.rule or 'no rule'}; before the table {', '.join(step.bases)}"
    )
    lines += [f"    table A: {cell}" for cell in step.cells]
    for target in step.targets:
        if not target.registered:
            lines.append(f"    {target.kind} {target.name}: not registered")
            continue
        facts = [target.env or "any environment", target.sensitivity, f"egress {target.egress}"]
        facts += ["workspace"] if target.workspace else []
        facts += [f"class {target.class_text}"] if target.class_text else []
        lines.append(f"    {target.kind} {target.name}: {', '.join(fact for fact in facts if fact)}")
    return lines


def _call(call: str | None, file: Path | None, tool: str | None) -> tuple[str, str | dict[str, JsonValue]]:
    """The tool and arguments of what was given on the command line, in a file or on standard input."""
    text = call if call is not None and call != "-" else _text(file or Path("-"))
    if tool is not None:
        return tool, text
    if call is None or call == "-":
        text = text.removesuffix("\n")
        said = canonicalise(text)
        if not isinstance(said, Rejected):
            command, named, arguments = said.value.get("command"), said.value.get("tool"), said.value.get("arguments")
            if isinstance(named, str) and isinstance(arguments, str | dict):
                return named, arguments
            if isinstance(command, str):
                return "shell", {"command": command}
    return "shell", {"command": text}


def _text(file: Path) -> str:
    try:
        if str(file) == "-":
            raw = sys.stdin.buffer.read(MAX_INPUT + 1)
        else:
            with file.open("rb") as opened:
                raw = opened.read(MAX_INPUT + 1)
        if len(raw) > MAX_INPUT:
            fail(f"{file} is larger than {MAX_INPUT} bytes.")
        return raw.decode("utf-8")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.")
    except UnicodeDecodeError:
        fail(f"{file} is not UTF-8.")


def _read_cases(path: Path | None) -> list[Case]:
    if path is None:
        return []
    try:
        return read_cases(path)
    except BundleError as error:
        fail(f"{error}.")


def _existing(bundle: str) -> Path:
    path = bundle_path(bundle)
    if not path.is_file():
        fail(f"there is no bundle file {path}.")
    return path


def _load(bundle: str) -> Bundle:
    """The bundle without its examples: these commands look at a bundle, `test` says whether it is good."""
    try:
        return read_policy(_existing(bundle))
    except BundleError as error:
        fail(f"the bundle is refused: {error}.")


def _print(said: Mapping[str, JsonValue]) -> None:
    typer.echo(json.dumps(said, ensure_ascii=True))


def _print_lines(lines: Sequence[str]) -> None:
    """Text of calls and files on a terminal: nothing in it may move a cursor."""
    for line in lines:
        typer.echo(escaped(line))
