"""Tools that run commands, and tools that type into a command that is running."""

import re

from deployments.gate.grammar import class_of
from deployments.gate.judge import Finding, Judge
from deployments.gate.paths import normal_path
from deployments.gate.shell.atoms import Atom, Unprovable, Word, check_characters
from deployments.gate.tool_specs import InputTool, PatchTool, ShellTool
from deployments.gate.tools.arguments import (
    Misfit,
    Reading,
    Values,
    check_known,
    is_plain,
    option_findings,
    optional_text,
)
from deployments.gate.tools.edits import judge_patch
from deployments.gate.tools.patches import BEGIN
from deployments.ports import JsonValue

PATCH_PROGRAMS = frozenset({"apply_patch", "applypatch"})
_SHELLS = frozenset({"bash", "sh", "/bin/bash", "/bin/sh", "/usr/bin/bash", "/usr/bin/sh"})
_CODE_FLAGS = frozenset({"-c", "-lc"})
# Clients read the text of a here-document as it stands, bash after its expansions: only one that has none is both.
_EXPANDS = re.compile(r"[$`\\]")
_QUOTED_END = re.compile(r"<<\s*('\w+'|\"\w+\")[^\n]*\n\Z")


def read_shell(judge: Judge, spec: ShellTool, values: Values, patch: PatchTool | None) -> Reading:
    """Every command of the call. `patch` is the bundle's word on patches, which commands may apply as well."""
    given = [name for name in spec.command if name in values]
    check_known(values, (*spec.command, *spec.workdir, *spec.options, *spec.raises))
    if len(given) != 1:
        raise Misfit("the call does not name exactly one command")
    found = option_findings(judge, spec, values)
    workdir = optional_text(values, spec.workdir, "working directory")
    if workdir is not None:
        if not is_plain(workdir):
            raise Misfit("the working directory is not a plain path")
        # Searches that name no path search the directory that they run in.
        found.append(judge.fields([("file", Word(workdir))], class_of("R0"), "runs in this directory", False))
        judge.directories = [normal_path(".", workdir)]
    read = _command(judge, values[given[0]], patch)
    return Reading((*read.findings, *found), read.preview)


def read_input(judge: Judge, spec: InputTool, values: Values) -> Reading:
    """Input for a program that runs already: what it does with it is not known."""
    check_known(values, (*spec.input, *spec.options, *spec.raises))
    found = option_findings(judge, spec, values)
    for name in spec.input:
        text = values.get(name, "")
        if not isinstance(text, str):
            raise Misfit("the input is not text")
        if text in spec.interrupts:
            found.append(judge.fields((), class_of(spec.class_), spec.reason, True))
        elif text:
            # What was typed may be a command for the shell that is running there.
            found.append(judge.opaque(text.strip(), "it is input for a program that is running"))
    return Reading(tuple(found or [judge.fields((), class_of("R0"), "looks at what a running program printed", False)]))


def _command(judge: Judge, command: JsonValue, patch: PatchTool | None) -> Reading:
    if isinstance(command, str):
        return _script(judge, command, patch)
    if not isinstance(command, list) or not command:
        raise Misfit("the command is neither text nor a list of words")
    words = [word for word in command if isinstance(word, str)]
    if len(words) != len(command):
        raise Misfit("the command is neither text nor a list of words")
    if words[0] in PATCH_PROGRAMS and len(words) == 2:
        return judge_patch(judge, _unfed(words[1]), patch)
    if len(words) == 3 and words[0] in _SHELLS and words[1] in _CODE_FLAGS and _names_patch(words[2]):
        return _script(judge, words[2], patch, portable=not words[0].endswith("bash"))
    try:
        check_characters(" ".join(words))
    except Unprovable as error:
        return Reading((judge.opaque(" ".join(words), str(error)),))
    return Reading(tuple(judge.atom(Atom(tuple(Word(word) for word in words)), 0)))


def _script(judge: Judge, text: str, patch: PatchTool | None, portable: bool = False) -> Reading:
    """What a text runs: as bash, or (`portable`) as whatever shell is called `sh`."""
    patched = _patched(judge, text, patch, portable) if _names_patch(text) else None
    if patched is not None:
        return patched
    return Reading(tuple(judge.script(text, portable=portable) or [judge.opaque(text, "there is no command in it")]))


def _names_patch(text: str) -> bool:
    return any(program in text for program in PATCH_PROGRAMS)


def _patched(judge: Judge, text: str, patch: PatchTool | None, portable: bool) -> Reading | None:
    """A script in which some commands apply a patch that stands in it. None: it is not plainly that."""
    if "(" in text.split(BEGIN, 1)[0]:
        return None  # perhaps a function, which may be called in another place, or more than once
    try:
        atoms = judge.reader.read_portable(text) if portable else judge.reader.read(text)
    except Unprovable:
        return None
    # Subshells, loops and pipes are left to the judge, to whom `apply_patch` is a program that it does not know.
    if any(atom.scope or atom.feed is not None for atom in atoms):
        return None
    findings: list[Finding] = []
    previews: list[str] = []
    for atom in atoms:
        body = _patch_of(atom, text)
        if body is None:
            findings += judge.atom(atom, 0)
            continue
        read = judge_patch(judge, body, patch)
        findings += read.findings
        if read.preview is not None:
            previews.append(read.preview)
    return Reading(tuple(findings), "\n".join(previews) or None) if previews else None


def _patch_of(atom: Atom, script: str) -> str | None:
    """The patch that a command applies: its one argument, or the here-document that it is fed."""
    if not atom.argv or atom.argv[0].text not in PATCH_PROGRAMS or atom.assignments:
        return None
    if len(atom.argv) == 2 and not atom.redirects:
        return None if atom.argv[1].glob else atom.argv[1].text
    if len(atom.argv) != 1 or len(atom.redirects) != 1 or atom.redirects[0].operator != "<<":
        return None
    body = atom.redirects[0].target.text
    if body is None:
        return None
    return body if _reads_as_written(body, script) else None


def _reads_as_written(body: str, script: str) -> bool:
    """True when a client that takes the here-document as it stands reads what bash makes of it."""
    if script.count(body) != 1 or script.count(BEGIN) != 1:
        return False
    start = script.split(BEGIN, 1)[0]
    if start.count("<<") != 1:
        return False
    return _QUOTED_END.search(start) is not None or _EXPANDS.search(script) is None


def _unfed(text: str) -> str:
    """Some models write a here-document where the patch itself belongs; clients take it for the patch."""
    found = re.fullmatch(r"<<(['\"]?)EOF\1\n(?P<patch>.*\n)EOF\n?", text, re.DOTALL)
    return found["patch"] if found else text
