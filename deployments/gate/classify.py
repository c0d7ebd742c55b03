"""The classifier: one tool call in, its risk class, outcome and reasons out. Pure, and never raises.

A call is read by the adapter its tool is registered with; an unregistered tool is UNKNOWN. Any error of the
classifier itself is a finding of its own: it raises the class and never lowers it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from deployments.gate.canonical import Canonical, Rejected, canonical_object, canonicalise
from deployments.gate.circumstances import PLAIN, Circumstances, raised
from deployments.gate.decide import decide
from deployments.gate.display import escaped
from deployments.gate.judge import Judge
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import StandingPlan
from deployments.gate.tables import Outcome
from deployments.gate.tool_specs import (
    CodeTool,
    EditTool,
    FieldsTool,
    HttpTool,
    InputTool,
    KubernetesTool,
    PatchTool,
    ShellTool,
    SqlTool,
    ToolSpec,
)
from deployments.gate.tools.arguments import Misfit, Reading, fault, present
from deployments.gate.tools.edits import read_edit, read_patch_call
from deployments.gate.tools.fields import read_code, read_fields_call, read_sql
from deployments.gate.tools.http import read_http
from deployments.gate.tools.kubernetes import read_kubernetes
from deployments.gate.tools.shell import read_input, read_shell
from deployments.ports import GateProfile, JsonValue, Risk

_log = logging.getLogger("gatehouse.gate")

MAX_REASONS = 24
MAX_TOOL_NAME = 256


@dataclass(frozen=True, slots=True)
class Shadow:
    """What another bundle would have made of a call. It decides nothing."""

    policy_digest: str
    risk: Risk
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Classification:
    """What a call is worth under one profile.

    `arguments` is the canonical text, None when there is none; `rules` the ids that decided, the worst first;
    `commands` what a shell call would run, decoded; `covered` says that `standing` covers all of its changes.
    `preview` is what an edit would change, readable; `shadow` is there while a shadow bundle runs beside this one.
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
    preview: str | None = None
    shadow: Shadow | None = None


class Classifier:
    """Classifies tool calls by one bundle. Holds no state of a call; safe to use from several threads."""

    def __init__(self, bundle: Bundle, reader: ShellReader | None = None) -> None:
        self._bundle = bundle
        self._reader = reader or ShellReader()
        self._own = {tenant: Classifier(own, self._reader) for tenant, own in bundle.tenants.items()}

    @property
    def policy_digest(self) -> str:
        """SHA-256 hex of the bundle."""
        return self._bundle.policy_digest

    @property
    def bundle(self) -> Bundle:
        """The bundle it judges by."""
        return self._bundle

    @property
    def bundle_name(self) -> str:
        """Name of the bundle."""
        return self._bundle.name

    def classify(
        self,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile = GateProfile.OPS,
        circumstances: Circumstances = PLAIN,
    ) -> Classification:
        """The class of a call; `arguments` is the model's text or an already decoded object.

        `circumstances` can raise the result; nothing lowers it. Arguments without a canonical form are R2: they can
        never be released, because there is no text to release.

        For a tenant with names of its own the call is judged by the bundle alone, too: the higher class counts.
        """
        found = self._judged(tool, arguments, profile, circumstances)
        own = self._own.get(circumstances.tenant or "")
        return found if own is None else _stricter(found, own.classify(tool, arguments, profile, circumstances))

    def _judged(
        self, tool: str, arguments: str | Mapping[str, JsonValue], profile: GateProfile, circumstances: Circumstances
    ) -> Classification:
        decoded: Canonical | Rejected | None = None
        situation = _Situation(tool, profile, circumstances)
        try:
            decoded = _decode(tool, arguments)
            if isinstance(decoded, Rejected):
                return self._rejected(decoded, situation)
            reading = self._findings(situation, decoded.value)
        except Exception as error:
            _log.warning("the classifier failed with %s; the call is held", type(error).__name__)
            reading = Reading((fault("classifier.error", "the classifier failed on this call"),))
        canonical = decoded.text if isinstance(decoded, Canonical) else None
        return self._result(reading, canonical, situation)

    def unavailable(
        self, tool: str, arguments: str, profile: GateProfile, why: str, circumstances: Circumstances = PLAIN
    ) -> Classification:
        """The class of a call that could not be classified in time: R2, with its canonical text if it has one.

        As by `classify`, `circumstances` can raise it, and a tenant with names of its own is told the digest of its own
        policy: under another one nothing that waits could ever be released.
        """
        found = self._unread(_decode(tool, arguments), why, _Situation(tool, profile, circumstances))
        own = self._own.get(circumstances.tenant or "")
        return found if own is None else _stricter(found, own.unavailable(tool, arguments, profile, why, circumstances))

    def _unread(self, decoded: Canonical | Rejected, why: str, situation: "_Situation") -> Classification:
        if isinstance(decoded, Rejected):
            return self._rejected(decoded, situation)
        return self._result(Reading((fault("classifier.error", why),)), decoded.text, situation)

    def _rejected(self, rejected: Rejected, situation: "_Situation") -> Classification:
        found = self._result(Reading((fault("arguments.rejected", rejected.reason),)), None, situation)
        # Not even `observe` can release what has no canonical form.
        outcome = found.outcome if found.outcome is Outcome.FORBID else Outcome.HOLD
        return replace(found, outcome=outcome)

    def _result(self, reading: Reading, arguments: str | None, situation: "_Situation") -> Classification:
        ordered = sorted(reading.findings, key=lambda found: -found.risk.rank)
        own = ordered[0].risk
        covered = own is Risk.R1 and all(found.covered for found in ordered if found.risk is not Risk.R0)
        rules = tuple(dict.fromkeys(found.rule or "no-rule" for found in ordered))
        told, tool, profile = situation.circumstances, situation.tool, situation.profile
        after = raised(self._bundle.raises, told, tool, profile, own, covered, rules)
        risk = after.risk
        covered = covered and risk is Risk.R1
        reasons = list(after.reasons)
        for found in ordered:
            if found.risk is not Risk.R0 or risk is Risk.R0:
                reasons += [reason for reason in found.reasons if reason not in reasons]
        return Classification(
            risk=risk,
            outcome=decide(self._bundle.table_b, profile, risk, covered),
            reasons=tuple(reasons[:MAX_REASONS]),
            rules=rules,
            commands=tuple(found.command for found in reading.findings if found.command),
            arguments=arguments,
            covered=covered,
            standing=self._bundle.standing.get(profile) if covered else None,
            policy_digest=self._bundle.policy_digest,
            preview=reading.preview,
        )

    def _findings(self, situation: "_Situation", values: Mapping[str, JsonValue]) -> Reading:
        spec = self._bundle.tools.get(situation.tool)
        if spec is None:
            return Reading((fault("tool.unknown", "the tool is not registered with the gate"),))
        offered = situation.circumstances.schema
        if spec.schema_ and offered not in spec.schema_:
            why = "was not offered with a schema" if offered is None else "was offered with another schema"
            return Reading((fault("tool.schema", f"the tool {why} than the one it is registered with"),))
        judge = Judge(self._bundle, self._reader, self._bundle.standing.get(situation.profile))
        try:
            return self.adapted(judge, spec, present(values))
        except Misfit as error:
            return Reading((fault("tool.arguments", str(error)),))

    def adapted(self, judge: Judge, spec: ToolSpec, values: Mapping[str, JsonValue]) -> Reading:
        """What the adapter of `spec` makes of the arguments, by `judge`; `Misfit` when they are not the tool's."""
        match spec:
            case ShellTool():
                return read_shell(judge, spec, values, self._patches())
            case InputTool():
                return read_input(judge, spec, values)
            case FieldsTool():
                return read_fields_call(judge, spec, values)
            case EditTool():
                return read_edit(judge, spec, values)
            case PatchTool():
                return read_patch_call(judge, spec, values)
            case HttpTool():
                return read_http(judge, spec, values)
            case KubernetesTool():
                return read_kubernetes(judge, spec, values)
            case SqlTool():
                return read_sql(judge, spec, values)
            case CodeTool():
                return read_code(judge, spec, values)
            case _:
                assert_never(spec)

    def _patches(self) -> PatchTool | None:
        """What the bundle says of `apply_patch`, which a command may run as well."""
        found = self._bundle.tools.get("apply_patch")
        return found if isinstance(found, PatchTool) else None


def _stricter(found: Classification, own: Classification) -> Classification:
    """What a tenant's own names make of a call, and never less than what it is without them."""
    lowered = (own.risk.rank, not own.covered) < (found.risk.rank, not found.covered)
    return replace(found, policy_digest=own.policy_digest) if lowered else own


@dataclass(frozen=True, slots=True)
class _Situation:
    """A call's tool, and all that is not its arguments."""

    tool: str
    profile: GateProfile
    circumstances: Circumstances


def _decode(tool: str, arguments: str | Mapping[str, JsonValue]) -> Canonical | Rejected:
    if len(tool) > MAX_TOOL_NAME or escaped(tool) != tool:
        return Rejected("The tool's name is not short plain text.")
    return canonicalise(arguments) if isinstance(arguments, str) else canonical_object(arguments)
