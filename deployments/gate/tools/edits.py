"""Tools that change files: where they write decides, and what they write is shown to whoever approves it."""

import json
from collections.abc import Sequence

from deployments.gate.grammar import class_of
from deployments.gate.judge import Finding, Judge
from deployments.gate.shell.atoms import Word
from deployments.gate.tool_specs import EditTool, PatchTool
from deployments.gate.tools import preview
from deployments.gate.tools.arguments import (
    Misfit,
    Reading,
    Values,
    check_known,
    fault,
    is_file,
    one_text,
    option_findings,
    optional_text,
    path_words,
)
from deployments.gate.tools.patches import Change, FileChange, Unreadable, read_patch
from deployments.ports import JsonValue, Risk

# As a file or a command that this bundle does not describe would be: held, wherever it writes.
_NO_PATCHES = "patch.unknown"


def read_edit(judge: Judge, spec: EditTool, values: Values) -> Reading:
    """A call of a tool that changes, reads or removes one file."""
    verb = () if spec.verb is None else (spec.verb,)
    texts = (*spec.old, *spec.new, *spec.content, *spec.edits)
    check_known(values, (*spec.path, *texts, *spec.moves, *verb, *spec.options, *spec.raises))
    path = one_text(values, spec.path, "path")
    findings = option_findings(judge, spec, values)
    action = _verb(spec, values)
    if action in spec.views:
        return Reading(
            (judge.fields(path_words(judge, "file", path), class_of("R0"), "reads a file", False), *findings)
        )
    moved = optional_text(values, spec.moves, "new path")
    findings += [_written(judge, each, spec) for each in (path, moved) if each is not None]
    shown = _preview(spec, values, path, moved, action)
    return Reading(tuple(findings), shown if action is None else f"{action}: {shown}")


def read_patch_call(judge: Judge, spec: PatchTool, values: Values) -> Reading:
    """A call that holds one patch."""
    check_known(values, (*spec.patch, *spec.options, *spec.raises))
    text = one_text(values, spec.patch, "patch")
    found = option_findings(judge, spec, values)
    read = judge_patch(judge, text, spec)
    return Reading((*read.findings, *found), read.preview)


def judge_patch(judge: Judge, text: str, spec: PatchTool | None) -> Reading:
    """Every file that a patch names, as files that are written; and the patch by files, for an approver."""
    try:
        files = read_patch(text)
    except Unreadable as error:
        return Reading((fault("patch.unreadable", f"the patch is not in the known format: {error}"),))
    shown = preview.of_patch(files)
    if spec is None:
        return Reading((fault(_NO_PATCHES, "the policy does not say what a patch is worth"),), shown)
    findings = [_written(judge, path, spec) for path in _paths(files)]
    deletes = sum(file.change is Change.DELETE for file in files)
    if deletes >= spec.many_deletes:
        findings.append(fault("patch.deletes", f"deletes {deletes} files at once", Risk.R3))
    return Reading(tuple(findings), shown)


def _paths(files: Sequence[FileChange]) -> list[str]:
    named = [path for file in files for path in (file.path, file.moved) if path is not None]
    return list(dict.fromkeys(named))


def _written(judge: Judge, path: str, spec: EditTool | PatchTool) -> Finding:
    words = path_words(judge, "written", path) if is_file(path) else [("written", Word(None))]
    return judge.fields(words, class_of(spec.class_), spec.reason, spec.standing)


def _verb(spec: EditTool, values: Values) -> str | None:
    if spec.verb is None:
        return None
    verb = values.get(spec.verb)
    if not isinstance(verb, str) or verb not in spec.verbs:
        raise Misfit("the call does not say what to do in a known word")
    return verb


def _preview(spec: EditTool, values: Values, path: str, moved: str | None, action: str | None) -> str:
    parts: list[str] = []
    if moved is not None:
        parts.append(preview.of_move(path, moved))
    content = optional_text(values, spec.content, "content")
    old, new = optional_text(values, spec.old, "old text"), optional_text(values, spec.new, "new text")
    if content is not None:
        parts.append(preview.of_content(path, content))
    if old is not None or new is not None:
        parts.append(preview.of_replacement(path, old or "", new or ""))
    for name in spec.edits:
        for number, (before, after) in enumerate(_edits(spec, values.get(name)), start=1):
            parts.append(preview.of_replacement(path, before, after, f"edit {number}"))
    said = [(name, _shown(values[name])) for name in (*spec.options, *spec.raises) if name in values]
    if not parts and not said:
        if action is None and not spec.deletes:
            raise Misfit("the call does not say what to change")
        return preview.of_deletion(path) if spec.deletes else preview.of_values(path, ())
    return "\n".join([*parts, *([preview.of_values(path, said)] if said else [])])


def _edits(spec: EditTool, value: JsonValue) -> list[tuple[str, str]]:
    """The list of replacements of an edit that makes several."""
    if value is None:
        return []
    if not isinstance(value, list) or not value:
        raise Misfit("the list of edits is not a list")
    known = {*spec.old, *spec.new, "replace_all", "replaceAll"}
    found: list[tuple[str, str]] = []
    for each in value:
        if not isinstance(each, dict) or each.keys() - known:
            raise Misfit("an edit has an argument that is not known")
        old, new = optional_text(each, spec.old, "old text"), optional_text(each, spec.new, "new text")
        if old is None or new is None:
            raise Misfit("an edit lacks one of its texts")
        found.append((old, new))
    return found


def _shown(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, sort_keys=True)
