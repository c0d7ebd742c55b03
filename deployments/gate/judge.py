"""What one simple command is worth: its words read as the program reads them, its rule, its targets, its class.

The law of this module: a word that is not understood never lowers anything. An unknown program, subcommand, flag, or
word too many is UNKNOWN; a word that is only known when it runs is UNKNOWN unless the program is harmless with any;
an unregistered target is production and sensitive.
"""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.gate.policy import DEFAULT_TARGET, Bundle
from deployments.gate.shell.atoms import MAX_COMMANDS, MAX_DEPTH, Atom, Redirect, Unprovable, Word
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import ClassOf, Effect, Flag, Node, Rule, StandingPlan, Target
from deployments.gate.tables import Base, Egress, Env, Sensitivity
from deployments.ports import Risk

UNREGISTERED = Target(env=Env.PROD, sensitivity=Sensitivity.SENSITIVE, note="not known before it runs")
HOME = "~"
# Nothing that two readers of addresses could split differently: no user part, no backslash, no odd character.
_ADDRESS = re.compile(r"(?:https?://)?(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?(?:/[!-~]*)?")
_EGRESS = tuple(Egress)
_UNKNOWN = ClassOf(Base.UNKNOWN, Base.UNKNOWN)
_OPAQUE = ClassOf(Base.OPAQUE, Base.OPAQUE)
_DIRECTORY_CHANGERS = frozenset({"cd", "pushd"})
MAX_DIRECTORIES = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """The judgement of one command. `covered` says that the profile's standing plan covers it."""

    risk: Risk
    covered: bool
    rule: str | None
    reasons: tuple[str, ...]
    command: str


@dataclass(slots=True)
class _Facts:
    """What is collected about one command before its class is looked up."""

    classes: list[ClassOf] = field(default_factory=list[ClassOf])
    targets: list[Target] = field(default_factory=list[Target])
    kinds: set[str] = field(default_factory=set[str])
    notes: list[str] = field(default_factory=list[str])
    understood: bool = True
    wide: bool = False

    def unknown(self, note: str) -> None:
        self.understood = False
        self.classes.append(_UNKNOWN)
        self.notes.append(note)

    def opaque(self, note: str) -> None:
        self.understood = False
        self.classes.append(_OPAQUE)
        self.notes.append(note)


@dataclass(slots=True)
class Judge:
    """Judges the commands of one call; remembers where `cd` may have led. Not reused between calls."""

    bundle: Bundle
    reader: ShellReader
    standing: StandingPlan | None
    directories: list[str | None] = field(default_factory=lambda: ["."])
    count: int = 0

    def script(self, text: str, depth: int = 0) -> list[Finding]:
        """Every command that `text` would run as bash."""
        if depth > MAX_DEPTH:
            return [self.opaque(text, f"commands nested deeper than {MAX_DEPTH}")]
        try:
            atoms = self.reader.read(text)
        except Unprovable as error:
            return [self.opaque(text, str(error))]
        return [finding for atom in atoms for finding in self.atom(atom, depth)]

    def opaque(self, text: str, why: str) -> Finding:
        """A command that cannot be read: why, and the class of that."""
        facts = _Facts()
        facts.opaque(f"cannot be read: {why}")
        return self._finding(facts, None, text)

    def atom(self, atom: Atom, depth: int) -> list[Finding]:
        """One simple command, its redirects, and the commands inside it."""
        self.count += 1
        if self.count > MAX_COMMANDS:
            return [self.opaque("", f"more than {MAX_COMMANDS} commands")]
        found = [self._redirect(redirect) for redirect in atom.redirects]
        found += [self._assignment(name) for name, _ in atom.assignments]
        if not atom.argv:
            return [finding for finding in found if finding is not None]
        found += self._command(atom.argv, depth)
        self._follow(atom.argv)
        return [finding for finding in found if finding is not None]

    def fields(self, values: Sequence[tuple[str, Word]], class_of: ClassOf, reason: str, standing: bool) -> Finding:
        """A tool call whose arguments are plain fields: `values` are `(role, word)`."""
        facts = _Facts()
        for role, word in values:
            self._word(facts, role, word)
        return self._finding(facts, Rule("tool", class_of, reason, None, standing), "")

    # --- one command -------------------------------------------------------------------------------------------------

    def _command(self, argv: tuple[Word, ...], depth: int) -> list[Finding]:
        shown = _shown(argv)
        facts = _Facts()
        node = self._program(argv[0], facts)
        if node is None:
            return [self._finding(facts, None, shown)]
        positionals: list[Word] = []
        nested: list[Finding] = []
        given: set[str] = set()
        runs = False
        words = list(argv[1:])
        while words:
            word = words.pop(0)
            text = word.text
            if text is None:
                if not node.any_words:
                    facts.unknown("a word that is only known when it runs")
                positionals.append(word)
                continue
            if word.glob and not node.any_words and text[0] in "*?[-":
                facts.unknown(f"file names in place of '{text}' may be read as flags")
            if self._takes_command(node, positionals, text):
                nested += self._nested(node, [word, *words], depth)
                runs = True
                break
            if text == "--" and "--" not in node.flags:
                runs = "command" in node.args and bool(words)
                if runs:
                    nested += self._nested(node, words, depth)
                else:
                    self._rest(facts, node, positionals, words)
                break
            if not positionals and not word.glob and text in node.sub:
                node = node.sub[text]
                continue
            if text != "-" and (text.startswith("-") or text in node.flags):
                words = self._flag(facts, node, text, word.glob, words, given, depth, nested)
                continue
            if node.requires and not node.requires & given:
                facts.opaque("runs the file that it is given")
            positionals.append(word)
        self._positionals(facts, node, positionals, drop=bool(node.drops_first & given))
        if node.requires and not node.requires & given:
            facts.opaque("runs what it is given on its input or in a file")
        self._implied(facts, node)
        rule = self._rule(node, bare=not (runs or positionals) if "command" not in node.args else not runs)
        if rule is None:
            facts.unknown(f"'{' '.join(node.path)}' has no rule")
        return [self._finding(facts, rule, shown), *nested]

    def _program(self, word: Word, facts: _Facts) -> Node | None:
        name = word.text
        if name is None or word.glob:
            facts.opaque("the program is only known when it runs")
            return None
        directory, _, base = name.rpartition("/")
        if directory:
            if directory not in self.bundle.program_directories:
                facts.opaque(f"the program '{name}' is not one of the system's")
                return None
            name = base
        node = self.bundle.parts.programs.get(name)
        if node is None:
            facts.unknown(f"the program '{name}' is not known")
        return node

    @staticmethod
    def _takes_command(node: Node, positionals: Sequence[Word], text: str) -> bool:
        """True when `text` starts the command that this program runs."""
        if "command" not in node.args or text.startswith("-"):
            return False
        before = node.args[: node.args.index("command")]
        fixed = [role for role in before if role != "assignment"]
        if "assignment" in before and "=" in text:
            return False
        return len(positionals) >= len(fixed)

    @staticmethod
    def _rest(facts: _Facts, node: Node, positionals: list[Word], words: list[Word]) -> None:
        """The words after `--`: positional, whatever they look like."""
        if any(word.text is None for word in words) and not node.any_words:
            facts.unknown("a word that is only known when it runs")
        positionals += words

    def _nested(self, node: Node, words: list[Word], depth: int) -> list[Finding]:
        if depth >= MAX_DEPTH:
            return [self.opaque(_shown(words), f"commands nested deeper than {MAX_DEPTH}")]
        if node.appends:
            words = [*words, Word(None)]
        return self.atom(Atom(tuple(words)), depth + 1)

    def _rule(self, node: Node, bare: bool) -> Rule | None:
        for rule in self.bundle.parts.rules.get(node.path, ()):
            if rule.bare is None or rule.bare == bare:
                return rule
        return None

    # --- flags -------------------------------------------------------------------------------------------------------

    def _flag(
        self,
        facts: _Facts,
        node: Node,
        text: str,
        glob: bool,
        words: list[Word],
        given: set[str],
        depth: int,
        nested: list[Finding],
    ) -> list[Word]:
        """Read one flag word and its value; returns the words that are left."""
        if text[1:].isdigit() and "-#" in node.flags:
            return words
        exact = node.flags.get(text)
        if exact is None and not node.single and not text.startswith("--"):
            return self._shorts(facts, node, text, words, given, depth, nested)
        name, equals, attached = text.partition("=")
        flag = exact or node.flags.get(name)
        if flag is None or (equals and flag.value == "none" and exact is None):
            facts.unknown(f"the flag '{name}' is not known to '{' '.join(node.path)}'")
            return words
        given.add(flag.name)
        value = Word(attached, glob) if equals and exact is None else None
        return self._value(facts, flag, value, words, depth, nested)

    def _shorts(
        self,
        facts: _Facts,
        node: Node,
        text: str,
        words: list[Word],
        given: set[str],
        depth: int,
        nested: list[Finding],
    ) -> list[Word]:
        """A bundle of one-letter flags; the first one that takes a value takes the rest of the word."""
        for place, letter in enumerate(text[1:], start=1):
            flag = node.flags.get(f"-{letter}")
            if flag is None:
                facts.unknown(f"the flag '-{letter}' is not known to '{' '.join(node.path)}'")
                return words
            given.add(flag.name)
            rest = text[place + 1 :]
            if flag.value == "none":
                self._effects(facts, flag)
                continue
            return self._value(facts, flag, Word(rest.removeprefix("=")) if rest else None, words, depth, nested)
        return words

    def _value(
        self, facts: _Facts, flag: Flag, attached: Word | None, words: list[Word], depth: int, nested: list[Finding]
    ) -> list[Word]:
        self._effects(facts, flag)
        if flag.role == "exec":
            return self._exec(facts, words, depth, nested)
        if flag.value == "none" or (flag.value == "optional" and attached is None):
            return words
        if attached is None:
            if not words:
                facts.unknown(f"the flag '{flag.name}' lacks its value")
                return words
            attached, *words = words
        if flag.role == "shell":
            if attached.text is None:
                facts.opaque("runs a command that is only known when it runs")
            else:
                nested += self.script(attached.text, depth + 1)
            return words
        if attached.text is None:
            facts.unknown("a word that is only known when it runs")
        self._word(facts, flag.role, attached)
        return words

    def _exec(self, facts: _Facts, words: list[Word], depth: int, nested: list[Finding]) -> list[Word]:
        """`find -exec`: the words up to `;` or `+` are a command; `{}` in it is known only when it runs."""
        ends = [place for place, word in enumerate(words) if word.text in {";", "+"}]
        if not ends or not ends[0]:
            facts.unknown("a command without an end")
            return []
        command = [Word(None) if word.text is not None and "{}" in word.text else word for word in words[: ends[0]]]
        nested += self.atom(Atom(tuple(command)), depth + 1)
        return words[ends[0] + 1 :]

    def _effects(self, facts: _Facts, flag: Flag) -> None:
        for name in flag.effects:
            self._effect(facts, self.bundle.parts.effects[name])
            facts.notes.append(f"{flag.name} ({name})")

    @staticmethod
    def _effect(facts: _Facts, effect: Effect) -> None:
        if effect.class_of is not None:
            facts.classes.append(effect.class_of)
        facts.wide = True
        facts.targets.append(Target(env=effect.env, sensitivity=effect.sensitivity, egress=effect.egress))

    # --- positional words and their roles ----------------------------------------------------------------------------

    def _positionals(self, facts: _Facts, node: Node, words: Sequence[Word], drop: bool = False) -> None:
        roles = [role for role in node.args[drop:] if role not in {"command", "assignment"}]
        if "command" in node.args:
            plain = [word for word in words if word.text is None or "=" not in word.text]
            for word in words:
                if word.text is not None and "=" in word.text:
                    self._check_assignment(facts, word.text.partition("=")[0])
            if len(plain) > len(roles):
                facts.unknown(f"'{' '.join(node.path)}' has a word too many")
            for role, word in zip(roles, plain, strict=False):
                self._word(facts, role, word)
            return
        if roles == ["k8s-objects"]:
            self._k8s_objects(facts, words)
            return
        if len(words) > len(roles) and not node.repeats:
            facts.unknown(f"'{' '.join(node.path)}' has a word too many")
        for place, word in enumerate(words):
            # A word that the shell may replace by several stands in every place from its own on.
            last = place if word.text is not None and not word.glob else len(roles) - 1
            for role in dict.fromkeys(roles[min(place, len(roles) - 1) : last + 1] or roles[-1:]):
                self._word(facts, role, word)

    def _word(self, facts: _Facts, role: str, word: Word) -> None:
        """Judge one word by its role: a pattern it must fit, or a target it names."""
        parts = self.bundle.parts
        if role == "text":
            return
        if role == "file":
            facts.kinds.add("path")
            facts.targets += self._paths(word)
            return
        if role == "url":
            self._url(facts, word)
            return
        if role in parts.patterns:
            if word.text is not None and not parts.patterns[role].fullmatch(word.text):
                facts.unknown(f"'{word.text}' is not a word that may stand here ({role})")
            return
        facts.kinds.add(role)
        self._target(facts, role, None if word.glob else word.text)

    def _target(self, facts: _Facts, kind: str, text: str | None) -> None:
        target = None if text is None else self.bundle.target(kind, text)
        if target is None:
            shown = "unknown" if text is None else f"'{text}'"
            target = Target(Env.PROD, Sensitivity.SENSITIVE, Egress.OTHER if kind == "host" else Egress.NONE)
            facts.notes.append(f"the {kind} {shown} is not registered")
        elif target.class_of is not None:
            facts.notes.append(f"the {kind} '{text}' is registered as {target.class_of.prod}")
        elif target.sensitivity is Sensitivity.SENSITIVE:
            facts.notes.append(f"the {kind} '{text}' is sensitive")
        facts.targets.append(target)

    def _implied(self, facts: _Facts, node: Node) -> None:
        """The default targets of the kinds that no word named."""
        cluster_scoped = any(target.cluster_scoped for target in facts.targets)
        for kind in node.targets:
            if kind in facts.kinds or (kind == "namespace" and cluster_scoped):
                continue
            self._target(facts, kind, DEFAULT_TARGET)

    def _k8s_objects(self, facts: _Facts, words: Sequence[Word]) -> None:
        """`TYPE[,TYPE] [NAME ...]` or `TYPE/NAME ...`: kinds are targets, and so are the names of some kinds."""
        slashed = [word for word in words if word.text is not None and "/" in word.text]
        pairs: list[tuple[str | None, list[str | None]]] = []
        if slashed and len(slashed) == len(words):
            for word in words:
                kind, _, name = (word.text or "").partition("/")
                pairs.append((kind, [name]))
        elif words:
            names = [None if word.glob else word.text for word in words[1:]]
            first = None if words[0].glob else words[0].text
            pairs += [(kind, names) for kind in (first.split(",") if first is not None else [None])]
        for kind, names in pairs:
            short = None if kind is None else kind.lower().partition(".")[0]
            self._target(facts, "resource", short)
            target = facts.targets[-1]
            if target.names is None:
                continue
            if not names:
                facts.targets.append(Target(env=Env.PROD))
            for name in names:
                self._target(facts, target.names, name)

    def _paths(self, word: Word) -> list[Target]:
        """Where a path may lead from any directory that the call may be in by then."""
        text = word.text
        if text is None or (word.glob and (text[:1] in "/~" or ".." in text)):
            return [UNREGISTERED]
        found: list[Target] = []
        # `REVISION:PATH` and `HOST:PATH` name a path after the colon.
        for piece in [text, *text.split(":")[1:]]:
            for directory in self.directories:
                place = normal_path(directory, piece)
                target = None if place is None else self.bundle.target("path", place)
                found.append(UNREGISTERED if target is None else target)
        return found

    def _url(self, facts: _Facts, word: Word) -> None:
        facts.kinds.add("host")
        if word.text is None or word.glob or "{" in word.text:
            facts.unknown("an address that is only known when it runs")
            return
        address = _ADDRESS.fullmatch(word.text)
        if address is None:
            facts.unknown("an address that is not plain http(s)")
            return
        host = address["host"].lower().strip("[]").removesuffix(".")
        self._target(facts, "host", host)

    # --- surroundings ------------------------------------------------------------------------------------------------

    def _redirect(self, redirect: Redirect) -> Finding | None:
        operator, word = redirect.operator, redirect.target
        if operator in {"<<", "<<-", "<<<"}:
            return None
        if operator in {">&", "<&"} and word.text is not None and (word.text.isdigit() or word.text == "-"):
            return None
        if word.text in self.bundle.sinks and not word.glob:
            return None
        name = "<" if operator in {"<", "<&"} else ">"
        node = self.bundle.parts.programs.get(name)
        facts = _Facts()
        if node is None or word.text is None or word.glob or "/dev/tcp" in word.text or "/dev/udp" in word.text:
            facts.opaque("a redirect to a place that is not known")
            return self._finding(facts, None, f"{operator} {word.text or '?'}")
        self._positionals(facts, node, [word])
        rule = self._rule(node, bare=False)
        if rule is None:
            facts.unknown("redirects have no rule")
        return self._finding(facts, rule, f"{operator} {word.text}")

    def _assignment(self, name: str) -> Finding | None:
        facts = _Facts()
        self._check_assignment(facts, name)
        return self._finding(facts, None, f"{name}=...") if facts.classes else None

    def _check_assignment(self, facts: _Facts, name: str) -> None:
        if name not in self.bundle.environment:
            facts.opaque(f"sets the variable {name}, which may change what runs")

    def _follow(self, argv: tuple[Word, ...]) -> None:
        """Remember where a change of directory may have led; it may also have failed, so the old places stay."""
        if argv[0].text not in _DIRECTORY_CHANGERS:
            return
        words = [word for word in argv[1:] if word.text not in {"-P", "-L", "--"}]
        for known in list(self.directories):
            target = None
            if not words:
                target = HOME
            elif words[0].text is not None and words[0].text != "-" and not words[0].glob:
                target = normal_path(known, words[0].text)
            if target not in self.directories:
                self.directories.append(target)
        if len(self.directories) > MAX_DIRECTORIES:
            self.directories = [None]

    # --- the class ---------------------------------------------------------------------------------------------------

    def _finding(self, facts: _Facts, rule: Rule | None, shown: str) -> Finding:
        classes = list(facts.classes)
        if rule is not None:
            classes.append(rule.class_of)
        classes += [target.class_of for target in facts.targets if target.class_of is not None]
        env = self._env(facts.targets)
        sensitive = any(target.sensitivity is Sensitivity.SENSITIVE for target in facts.targets)
        sensitivity = Sensitivity.SENSITIVE if sensitive else Sensitivity.NORMAL
        egress = max((target.egress for target in facts.targets), key=_EGRESS.index, default=Egress.NONE)
        bases = [found.at(env) for found in classes] or [Base.UNKNOWN]
        risk = max(
            (self.bundle.table_a[base, env, sensitivity, egress] for base in bases), key=lambda found: found.rank
        )
        covered = (
            self.standing is not None
            and rule is not None
            and rule.standing
            and facts.understood
            and not facts.wide
            and risk in {Risk.R1, Risk.R2}
            and env is Env.NONPROD
            and not sensitive
            and egress is Egress.NONE
            and all(target.workspace for target in facts.targets)
            and all(self._inside(directory) for directory in self.directories)
        )
        name = rule.id if rule is not None else "no-rule"
        reason = rule.reason if rule is not None else "not understood"
        notes = facts.notes if risk is not Risk.R0 else []
        reasons = [f"{name}: {reason}", *(f"{name}: {note}" for note in notes)]
        if env is Env.PROD and risk is not Risk.R0:
            reasons.append(f"{name}: the target is production, or not known to be otherwise")
        if covered:
            reasons.append(f"{name}: inside the workspace, covered by the standing rollback plan")
        return Finding(Risk.R1 if covered else risk, covered, rule.id if rule else None, tuple(reasons), shown)

    def _inside(self, directory: str | None) -> bool:
        """True when commands that run in `directory` work on the workspace."""
        target = None if directory is None else self.bundle.target("path", directory)
        return target is not None and target.workspace

    def _env(self, targets: Sequence[Target]) -> Env:
        """Production as soon as one target is; without any that says, the place where commands run decides."""
        named = {target.env for target in targets if target.env is not None}
        if not named:
            runner = self.bundle.target("runner", DEFAULT_TARGET)
            return runner.env if runner is not None and runner.env is not None else Env.PROD
        return Env.PROD if Env.PROD in named else Env.NONPROD


def normal_path(directory: str | None, text: str) -> str | None:
    """`text` seen from `directory`: absolute, `~...`, `./...` inside the workspace, or `../...` out of it."""
    if text.startswith(("/", HOME)):
        return text if text == HOME else _tidy(text)
    if directory is None:
        return None
    joined = _tidy(posixpath.join(directory, text))
    return joined if joined.startswith(("/", HOME, "../")) or joined in {".", ".."} else f"./{joined}"


def _tidy(text: str) -> str:
    tidy = posixpath.normpath(text)
    # POSIX keeps two leading slashes; to every program here they are one.
    return tidy[1:] if tidy.startswith("//") else tidy


def _shown(argv: Sequence[Word]) -> str:
    """The command as an approver reads it: words apart, unknown ones as `<?>`."""
    return " ".join(_quoted(word.text) for word in argv)


def _quoted(text: str | None) -> str:
    if text is None:
        return "<?>"
    plain = text and all(char.isalnum() or char in "_./:=,@%+-*?[]{}" for char in text)
    return text if plain else "'" + text.replace("'", "'\\''") + "'"
