"""The classifier: one tool call in, its risk class, outcome and reasons out. Pure, and never raises.

A call is read by the adapter its tool is registered with; an unregistered tool is UNKNOWN. Any error of the
classifier itself is a finding of its own: it raises the class and never lowers it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from deployments.gate.canonical import Canonical, Rejected, canonical_object, canonicalise
from deployments.gate.decide import decide
from deployments.gate.display import escaped
from deployments.gate.judge import Finding, Judge, normal_path
from deployments.gate.policy import Bundle
from deployments.gate.shell.atoms import Atom, Unprovable, Word, check_characters
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import FieldsTool, PatchTool, ShellTool, StandingPlan, class_of
from deployments.gate.tables import Outcome
from deployments.ports import GateProfile, JsonValue, Risk

_log = logging.getLogger("gatehouse.gate")

MAX_REASONS = 24
MAX_TOOL_NAME = 256
_PATCH_FILES = ("*** Add File: ", "*** Update File: ", "*** Delete File: ", "*** Move to: ")


@dataclass(frozen=True, slots=True)
class Classification:
    """What a call is worth under one profile.

    `arguments` is the canonical text, None when there is none; `rules` the ids that decided, the worst first;
    `commands` what a shell call would run, decoded; `covered` says that `standing` covers all of its changes.
    """

    risk: Risk
    outcome: Outcome
    reasons: tuple[str, ...]
    rules: tuple[str, ...]
    commands: tuple[str, ...]
    arguments: str | None
    covered: bool
    standing: StandingPlan | None
    policy_digest: str


class Classifier:
    """Classifies tool calls by one bundle. Holds no state of a call; safe to use from several threads."""

    def __init__(self, bundle: Bundle, reader: ShellReader | None = None) -> None:
        self._bundle = bundle
        self._reader = reader or ShellReader()

    @property
    def policy_digest(self) -> str:
        """SHA-256 hex of the bundle."""
        return self._bundle.policy_digest

    @property
    def bundle_name(self) -> str:
        """Name of the bundle."""
        return self._bundle.name

    def classify(
        self,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile = GateProfile.OPS,
        floor: Risk = Risk.R0,
    ) -> Classification:
        """The class of a call; `arguments` is the model's text or an already decoded object.

        `floor` raises the result (a recovered call, untrusted content); nothing lowers it. Arguments without a
        canonical form are R2: they can never be released, because there is no text to release.
        """
        decoded: Canonical | Rejected | None = None
        try:
            decoded = _decode(tool, arguments)
            if isinstance(decoded, Rejected):
                return self._rejected(decoded, profile, floor)
            findings = self._findings(tool, decoded.value, self._bundle.standing.get(profile))
        except Exception as error:
            _log.warning("the classifier failed with %s; the call is held", type(error).__name__)
            findings = [_fault("classifier.error", "the classifier failed on this call", Risk.R2)]
        canonical = decoded.text if isinstance(decoded, Canonical) else None
        return self._result(findings, canonical, profile, floor)

    def unavailable(self, tool: str, arguments: str, profile: GateProfile, why: str) -> Classification:
        """The class of a call that could not be classified in time: R2, with its canonical text if it has one."""
        decoded = _decode(tool, arguments)
        if isinstance(decoded, Rejected):
            return self._rejected(decoded, profile, Risk.R2)
        return self._result([_fault("classifier.error", why, Risk.R2)], decoded.text, profile, Risk.R2)

    def _rejected(self, rejected: Rejected, profile: GateProfile, floor: Risk) -> Classification:
        finding = _fault("arguments.rejected", rejected.reason, Risk.R2)
        found = self._result([finding], None, profile, floor)
        # Not even `observe` can release what has no canonical form.
        outcome = found.outcome if found.outcome is Outcome.FORBID else Outcome.HOLD
        return replace(found, outcome=outcome)

    def _result(
        self, findings: Sequence[Finding], arguments: str | None, profile: GateProfile, floor: Risk
    ) -> Classification:
        ordered = sorted(findings, key=lambda found: -found.risk.rank)
        risk = ordered[0].risk.at_least(floor)
        covered = risk is Risk.R1 and all(found.covered for found in ordered if found.risk is not Risk.R0)
        reasons: list[str] = []
        if floor.rank > ordered[0].risk.rank:
            reasons.append(f"floor: the circumstances of this call make it at least {floor.value}")
        for found in ordered:
            if found.risk is not Risk.R0 or risk is Risk.R0:
                reasons += [reason for reason in found.reasons if reason not in reasons]
        rules = tuple(dict.fromkeys(found.rule or "no-rule" for found in ordered))
        return Classification(
            risk=risk,
            outcome=decide(self._bundle.table_b, profile, risk, covered),
            reasons=tuple(reasons[:MAX_REASONS]),
            rules=rules,
            commands=tuple(found.command for found in findings if found.command),
            arguments=arguments,
            covered=covered,
            standing=self._bundle.standing.get(profile) if covered else None,
            policy_digest=self._bundle.policy_digest,
        )

    def _findings(self, tool: str, values: Mapping[str, JsonValue], standing: StandingPlan | None) -> list[Finding]:
        spec = self._bundle.tools.get(tool)
        judge = Judge(self._bundle, self._reader, standing)
        match spec:
            case None:
                return [_fault("tool.unknown", "the tool is not registered with the gate", Risk.R2)]
            case ShellTool():
                return self._shell(judge, spec, values)
            case FieldsTool():
                return [_fields(judge, spec, values)]
            case PatchTool():
                return [_patch(judge, spec, values)]
            case _:
                assert_never(spec)

    def _shell(self, judge: Judge, spec: ShellTool, values: Mapping[str, JsonValue]) -> list[Finding]:
        given = [name for name in spec.command if name in values]
        strange = values.keys() - {*spec.command, *spec.workdir, *spec.ignored}
        if len(given) != 1 or strange:
            why = "has an argument that is not known" if strange else "does not name exactly one command"
            return [_fault("tool.arguments", f"the call {why}", Risk.R2)]
        for name in spec.workdir:
            workdir = values.get(name)
            if isinstance(workdir, str):
                judge.directories = [normal_path(".", workdir)]
            elif workdir is not None:
                return [_fault("tool.arguments", "the working directory is not text", Risk.R2)]
        command = values[given[0]]
        if isinstance(command, str):
            return judge.script(command) or [judge.opaque(command, "there is no command in it")]
        if isinstance(command, list) and command and all(isinstance(word, str) for word in command):
            words = [word for word in command if isinstance(word, str)]
            if words[0] == "apply_patch" and len(words) == 2:
                return [_patch_text(judge, words[1])]
            try:
                check_characters(" ".join(words))
            except Unprovable as error:
                return [judge.opaque(" ".join(words), str(error))]
            return judge.atom(Atom(tuple(Word(word) for word in words)), 0)
        return [_fault("tool.arguments", "the command is neither text nor a list of words", Risk.R2)]


def _decode(tool: str, arguments: str | Mapping[str, JsonValue]) -> Canonical | Rejected:
    if len(tool) > MAX_TOOL_NAME or escaped(tool) != tool:
        return Rejected("The tool's name is not short plain text.")
    return canonicalise(arguments) if isinstance(arguments, str) else canonical_object(arguments)


def _fields(judge: Judge, spec: FieldsTool, values: Mapping[str, JsonValue]) -> Finding:
    strange = values.keys() - spec.fields.keys()
    if strange:
        return _fault("tool.arguments", "the call has an argument that is not known", Risk.R2)
    words: list[tuple[str, Word]] = []
    for name, value in values.items():
        role = spec.fields[name]
        if role == "text":
            continue
        words.append((role, Word(value if isinstance(value, str) else None)))
    return judge.fields(words, class_of(spec.class_), spec.reason, spec.standing)


def _patch(judge: Judge, spec: PatchTool, values: Mapping[str, JsonValue]) -> Finding:
    texts = [values[name] for name in spec.patch if name in values]
    if len(texts) != 1 or len(values) != 1 or not isinstance(texts[0], str):
        return _fault("tool.arguments", "the call does not hold exactly one patch", Risk.R2)
    return _patch_text(judge, texts[0], spec)


def _patch_text(judge: Judge, text: str, spec: PatchTool | None = None) -> Finding:
    """A patch: every file it names is a target; lines that are not of the format make it unknown."""
    lines = text.strip("\n").split("\n")
    if lines[0].strip() != "*** Begin Patch" or lines[-1].strip() != "*** End Patch":
        return _fault("patch.unreadable", "the patch is not in the known format", Risk.R2)
    paths: list[str] = []
    for line in lines[1:-1]:
        header = next((prefix for prefix in _PATCH_FILES if line.startswith(prefix)), None)
        if header is not None:
            paths.append(line.removeprefix(header).strip())
        elif line.lstrip().startswith("***") and line.strip() != "*** End of File":
            return _fault("patch.unreadable", "the patch is not in the known format", Risk.R2)
    if not paths:
        return _fault("patch.unreadable", "the patch names no file", Risk.R2)
    files = [("file", Word(path)) for path in paths]
    class_text = spec.class_ if spec is not None else "R2"
    reason = spec.reason if spec is not None else "edits files"
    return judge.fields(files, class_of(class_text), reason, True)


def _fault(rule: str, why: str, risk: Risk) -> Finding:
    return Finding(risk, False, rule, (f"{rule}: {why}",), "")
