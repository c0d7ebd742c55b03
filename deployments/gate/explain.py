"""Why a call is worth what it is: every command in it with its rule, its targets and its cell of table A.

The verdicts are the classifier's own, one per gate profile. The steps come from the same judge over the same bundle,
which takes notes meanwhile: nothing here decides anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from deployments.gate.canonical import Canonical, canonicalise
from deployments.gate.circumstances import PLAIN, Circumstances
from deployments.gate.classify import Classification, Classifier
from deployments.gate.findings import Facts, Finding, environment
from deployments.gate.judge import Judge
from deployments.gate.policy import Bundle
from deployments.gate.shell.atoms import Atom
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import Rule, StandingPlan, Target
from deployments.gate.tables import Cell, Egress, Sensitivity, TableA
from deployments.gate.tools.arguments import Misfit, present
from deployments.ports import GateProfile, JsonValue, Risk

_EGRESS = tuple(Egress)
# Rules under which an adapter is not even asked.
_UNREAD = frozenset({"classifier.error", "arguments.rejected", "tool.unknown", "tool.schema"})
_ADDED = "written"  # consulted besides `path`: that it says nothing is no news


@dataclass(frozen=True, slots=True)
class Touched:
    """One thing that a command names, and what the bundle says of it. `registered` False: it says nothing."""

    kind: str
    name: str
    registered: bool
    env: str | None = None
    sensitivity: str | None = None
    egress: str | None = None
    workspace: bool = False
    class_text: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One command, or one part of a call of another tool, read as the program reads it.

    `bases` are the classes before table A, `cells` what the table makes of each of them in this environment,
    sensitivity and egress. The worst cell is the class; `covered`: a standing plan lowers it to R1. Where no table was
    asked (a call that is not understood) all of these are empty.
    """

    command: str
    rule: str | None
    risk: Risk
    covered: bool
    bases: tuple[str, ...]
    env: str
    sensitivity: str
    egress: str
    cells: tuple[str, ...]
    targets: tuple[Touched, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the call under one gate profile. `change_id` is that of the standing plan, if it covers it."""

    profile: GateProfile
    risk: Risk
    outcome: str
    covered: bool
    change_id: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything about one call. `scripts` are the texts that were read as shell, decoded, outermost first.

    `risk_alone` is the class without the circumstances (text from outside, a repaired call ...): where it is lower than
    `risk`, they raised it. `arguments` is the canonical text, None when the call has none and can never be released.
    """

    tool: str
    arguments: str | None
    policy: str
    policy_digest: str
    risk: Risk
    risk_alone: Risk
    reasons: tuple[str, ...]
    scripts: tuple[str, ...]
    steps: tuple[Step, ...]
    verdicts: tuple[Verdict, ...]
    preview: str | None = None


@dataclass(slots=True)
class _Notes:
    """What is looked up in the bundle while a call is judged."""

    targets: list[tuple[str, str, Target | None]] = field(default_factory=list[tuple[str, str, Target | None]])
    cells: list[tuple[Cell, Risk]] = field(default_factory=list[tuple[Cell, Risk]])


class _NotingTable(Mapping[Cell, Risk]):
    """Table A that remembers which cells were looked at."""

    def __init__(self, table: TableA, notes: _Notes) -> None:
        self._table, self._notes = table, notes

    def __getitem__(self, cell: Cell) -> Risk:
        risk = self._table[cell]
        self._notes.cells.append((cell, risk))
        return risk

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


@dataclass(frozen=True, slots=True)
class _NotingBundle(Bundle):
    """The bundle, and what was looked up in it."""

    notes: _Notes = field(default_factory=_Notes)

    def target(self, kind: str, text: str) -> Target | None:
        found = Bundle.target(self, kind, text)
        self.notes.targets.append((kind, text, found))
        return found

    def targets_of_glob(self, kind: str, text: str) -> list[Target]:
        found = Bundle.targets_of_glob(self, kind, text)
        self.notes.targets += [(kind, text, target) for target in found or [None]]
        return found


class _NotingJudge(Judge):
    """A judge that keeps what each of its findings rests on, in `noted`. Nested commands have notes of their own."""

    def __init__(self, bundle: Bundle, notes: _Notes, reader: ShellReader, standing: StandingPlan | None) -> None:
        super().__init__(bundle, reader, standing)
        self.noted: list[tuple[Finding, Step]] = []
        self.scripts: list[str] = []
        self._notes = notes

    def script(self, text: str, depth: int = 0, portable: bool = False) -> list[Finding]:
        if not self.guessing:
            self.scripts.append(text)
        return super().script(text, depth, portable)

    def atom(self, atom: Atom, depth: int) -> list[Finding]:
        outside, self._notes.targets = self._notes.targets, []
        try:
            return super().atom(atom, depth)
        finally:
            self._notes.targets = outside

    def _settled(self, facts: Facts, rule: Rule | None, shown: str) -> Finding:
        looked = list(self._notes.targets)
        self._notes.cells = []
        finding = super()._settled(facts, rule, shown)
        if not self.guessing:
            named = [each for each in looked if each[2] is None or any(each[2] is target for target in facts.targets)]
            step = _step(self.bundle, finding, facts.targets, named, self._notes.cells)
            self.noted.append((finding, step))
            self._notes.targets.clear()
        return finding


def explain(
    bundle: Bundle,
    tool: str,
    arguments: str | Mapping[str, JsonValue],
    profile: GateProfile = GateProfile.OPS,
    circumstances: Circumstances = PLAIN,
    reader: ShellReader | None = None,
) -> Explanation:
    """Explain one call; `arguments` is the model's text or a decoded object. Never raises, like the classifier."""
    reader = reader or ShellReader()
    classifier = Classifier(bundle, reader)
    found = classifier.classify(tool, arguments, profile, circumstances)
    alone = classifier.classify(tool, arguments, profile)
    own = bundle.of(circumstances.tenant)
    steps, scripts = _steps(classifier, own, tool, found, reader, profile)
    verdicts = [
        (each, found if each is profile else classifier.classify(tool, arguments, each, circumstances))
        for each in GateProfile
    ]
    return Explanation(
        tool=tool,
        arguments=found.arguments,
        policy=bundle.name,
        policy_digest=own.policy_digest,
        risk=found.risk,
        risk_alone=alone.risk,
        reasons=found.reasons,
        scripts=scripts,
        steps=steps,
        verdicts=tuple(_verdict(each, judged) for each, judged in verdicts),
        preview=found.preview,
    )


def as_json(explanation: Explanation) -> dict[str, JsonValue]:
    """The explanation as plain JSON values, enumerations by their words."""
    return cast("dict[str, JsonValue]", asdict(explanation))


def _verdict(profile: GateProfile, found: Classification) -> Verdict:
    change_id = None if found.standing is None else found.standing.change_id
    return Verdict(profile, found.risk, found.outcome.value, found.covered, change_id)


def _steps(
    classifier: Classifier, bundle: Bundle, tool: str, found: Classification, reader: ShellReader, profile: GateProfile
) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """Every command or part of a call, by the adapter of its tool; none for a call that no adapter read."""
    spec = bundle.tools.get(tool)
    decoded = None if found.arguments is None else canonicalise(found.arguments)
    if spec is None or not isinstance(decoded, Canonical) or _UNREAD & set(found.rules):
        return (), ()
    notes = _Notes()
    own: dict[str, Any] = {each.name: getattr(bundle, each.name) for each in fields(bundle)}
    own |= {"table_a": _NotingTable(bundle.table_a, notes), "notes": notes}
    judge = _NotingJudge(_NotingBundle(**own), notes, reader, bundle.standing.get(profile))
    try:
        reading = classifier.adapted(judge, spec, present(decoded.value))
    except Misfit:
        return (), ()
    noted = {id(finding) for finding, _ in judge.noted}
    others = [_bare(finding) for finding in reading.findings if id(finding) not in noted]
    return (*(step for _, step in judge.noted), *others), tuple(judge.scripts)


def _bare(finding: Finding) -> Step:
    """A finding that no table was asked about."""
    return Step(finding.command, finding.rule, finding.risk, finding.covered, (), "", "", "", (), (), finding.reasons)


def _step(
    bundle: Bundle,
    finding: Finding,
    targets: Sequence[Target],
    named: Sequence[tuple[str, str, Target | None]],
    cells: Sequence[tuple[Cell, Risk]],
) -> Step:
    env = environment(bundle, targets)
    egress = max((target.egress for target in targets), key=_EGRESS.index, default=Egress.NONE)
    sensitive = any(target.sensitivity is Sensitivity.SENSITIVE for target in targets)
    return Step(
        command=finding.command,
        rule=finding.rule,
        risk=finding.risk,
        covered=finding.covered,
        bases=tuple(dict.fromkeys(cell[0].value for cell, _ in cells)),
        env=env.value,
        sensitivity=(Sensitivity.SENSITIVE if sensitive else Sensitivity.NORMAL).value,
        egress=egress.value,
        cells=_shown_cells(cells),
        targets=_touched(named),
        reasons=finding.reasons,
    )


def _shown_cells(cells: Sequence[tuple[Cell, Risk]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{'/'.join(part.value for part in cell)} -> {risk.value}" for cell, risk in cells))


def _touched(named: Sequence[tuple[str, str, Target | None]]) -> tuple[Touched, ...]:
    found: dict[tuple[str, str], Touched] = {}
    for kind, name, target in named:
        if target is None:
            if kind != _ADDED:
                found.setdefault((kind, name), Touched(kind, name, registered=False))
            continue
        given = target.class_of
        found[kind, name] = Touched(
            kind,
            name,
            registered=True,
            env=None if target.env is None else target.env.value,
            sensitivity=target.sensitivity.value,
            egress=target.egress.value,
            workspace=target.workspace,
            class_text=None if given is None else "|".join(dict.fromkeys((given.nonprod.value, given.prod.value))),
        )
    return tuple(found.values())
