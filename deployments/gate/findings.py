"""From what was collected about one command to its class: the facts, table A, and whether a standing plan covers it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.gate.grammar import ClassOf
from deployments.gate.policy import DEFAULT_TARGET, Bundle
from deployments.gate.shell.atoms import Word
from deployments.gate.specs import Effect, Flag, Rule, Target
from deployments.gate.tables import Base, Egress, Env, Sensitivity
from deployments.ports import Risk

UNKNOWN = ClassOf(Base.UNKNOWN, Base.UNKNOWN)
OPAQUE = ClassOf(Base.OPAQUE, Base.OPAQUE)
NOTHING = Rule("shell.test", ClassOf(Base.R0, Base.R0), "only tests, or sets its own variables", None, False)
_EGRESS = tuple(Egress)
# What a standing plan of a workspace may cover: changes there, of no higher class.
_COVERABLE = frozenset({Risk.R1, Risk.R2})


@dataclass(frozen=True, slots=True)
class Finding:
    """The judgement of one command. `covered` says that the profile's standing plan covers it."""

    risk: Risk
    covered: bool
    rule: str | None
    reasons: tuple[str, ...]
    command: str


@dataclass(slots=True)
class Facts:
    """What is collected about one command before its class is looked up.

    `given` names the flags that were found, `plain` those of them without a value; `deferred` are flags whose effects
    another flag may waive. `bases` says where paths begin when a flag (`git -C`) does; None: in the directories the
    call may be in.
    """

    classes: list[ClassOf] = field(default_factory=list[ClassOf])
    targets: list[Target] = field(default_factory=list[Target])
    kinds: set[str] = field(default_factory=set[str])
    notes: list[str] = field(default_factory=list[str])
    understood: bool = True
    wide: bool = False
    placeholder: str | None = None
    argv: tuple[Word, ...] = ()
    bases: list[str | None] | None = None
    given: set[str] = field(default_factory=set[str])
    plain: set[str] = field(default_factory=set[str])
    deferred: list[Flag] = field(default_factory=list[Flag])

    def unknown(self, note: str) -> None:
        """Something that the specification does not list."""
        self.understood = False
        self.classes.append(UNKNOWN)
        self.notes.append(note)

    def opaque(self, note: str) -> None:
        """Something that nobody can read from the command."""
        self.understood = False
        self.classes.append(OPAQUE)
        self.notes.append(note)

    def effect(self, name: str, effect: Effect, flag: str) -> None:
        """What the flag `flag` does by its effect `name`."""
        if effect.class_of is not None:
            self.classes.append(effect.class_of)
        self.wide = True
        self.targets.append(Target(env=effect.env, sensitivity=effect.sensitivity, egress=effect.egress))
        self.notes.append(f"{flag} ({name})")

    def rule_fits(self, rule: Rule, bare: bool) -> bool:
        """True when `rule` speaks of a call with these flags, `bare` of positional words or not."""
        return (
            (rule.bare is None or rule.bare == bare)
            and (not rule.with_ or bool(rule.with_ & self.plain))
            and not rule.without & self.given
        )


def settle(
    bundle: Bundle, facts: Facts, rule: Rule | None, shown: str, standing: bool, directories: Sequence[str | None]
) -> Finding:
    """The class of one command; `standing`: the profile has a plan that covers work in the workspace."""
    classes = list(facts.classes)
    if rule is not None:
        classes.append(rule.class_of)
    classes += [target.class_of for target in facts.targets if target.class_of is not None]
    env = environment(bundle, facts.targets)
    sensitive = any(target.sensitivity is Sensitivity.SENSITIVE for target in facts.targets)
    sensitivity = Sensitivity.SENSITIVE if sensitive else Sensitivity.NORMAL
    egress = max((target.egress for target in facts.targets), key=_EGRESS.index, default=Egress.NONE)
    bases = [found.at(env) for found in classes] or [Base.UNKNOWN]
    risk = max((bundle.table_a[base, env, sensitivity, egress] for base in bases), key=lambda found: found.rank)
    covered = (
        standing
        and rule is not None
        and rule.standing
        and facts.understood
        and not facts.wide
        and risk in _COVERABLE
        and env is Env.NONPROD
        and not sensitive
        and egress is Egress.NONE
        and all(target.workspace for target in facts.targets)
        and all(_inside(bundle, directory) for directory in [*directories, *(facts.bases or ())])
    )
    name = rule.id if rule is not None else "no-rule"
    reason = rule.reason if rule is not None else "not understood"
    notes = facts.notes if risk is not Risk.R0 else []
    reasons = [f"{name}: {reason}", *(f"{name}: {note}" for note in notes)]
    if env is Env.PROD and risk is not Risk.R0:
        reasons.append(f"{name}: the target is production, or not known to be otherwise")
    if sensitive and risk is not Risk.R0:
        reasons.append(f"{name}: what it reads or changes is sensitive, or not known to be otherwise")
    if covered:
        reasons.append(f"{name}: inside the workspace, covered by the standing rollback plan")
    return Finding(Risk.R1 if covered else risk, covered, rule.id if rule else None, tuple(reasons), shown)


def environment(bundle: Bundle, targets: Sequence[Target]) -> Env:
    """Production as soon as one target is; without any that says, the place where commands run decides."""
    named = {target.env for target in targets if target.env is not None}
    if not named:
        runner = bundle.target("runner", DEFAULT_TARGET)
        return runner.env if runner is not None and runner.env is not None else Env.PROD
    return Env.PROD if Env.PROD in named else Env.NONPROD


def _inside(bundle: Bundle, directory: str | None) -> bool:
    """True when commands that run in `directory` work on the workspace."""
    target = None if directory is None else bundle.target("path", directory)
    return target is not None and target.workspace


def as_shown(argv: Sequence[Word]) -> str:
    """The command as an approver reads it: words apart, unknown ones as `<?>`."""
    return " ".join(_quoted(word.text) for word in argv)


def _quoted(text: str | None) -> str:
    if text is None:
        return "<?>"
    plain = text and all(char.isalnum() or char in "_./:=,@%+-*?[]{}" for char in text)
    return text if plain else "'" + text.replace("'", "'\\''") + "'"
