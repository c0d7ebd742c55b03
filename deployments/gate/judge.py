"""What one simple command is worth: its words read as the program reads them, its rule, its targets, its class.

The law of this module: a word that is not understood never lowers anything. An unknown program, subcommand, flag, or
word too many is UNKNOWN; a word that is only known when it runs is UNKNOWN unless the program is harmless with any;
an unregistered target is production and sensitive.
"""

import posixpath
import re
import shlex
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from deployments.gate import globs, scripts, sql
from deployments.gate.policy import DEFAULT_TARGET, Bundle
from deployments.gate.shell.atoms import MAX_DEPTH, MAX_RUNS, Atom, Redirect, Unprovable, Word, ansi_c
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
_NOTHING = Rule("shell.test", ClassOf(Base.R0, Base.R0), "only tests, or sets its own variables", None, False)
_FIND_SIGNS = frozenset({"(", ")", "!", ",", ";", "+", "{}"})
_TEST_PROGRAMS = frozenset({"test", "["})
_TEST_UNARY = frozenset({f"-{letter}" for letter in "efdrwxsLhnzbcpSt"})
_TEST_BINARY = frozenset({"=", "==", "!=", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef"})
MAX_DIRECTORIES = 8
MAX_GUESSED = 4_000
MAX_GUESSES = 24
MAX_COMMON_WORD = 8


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
    placeholder: str | None = None
    argv: tuple[Word, ...] = ()
    bases: list[str | None] | None = None
    """Where paths begin, when a flag (`git -C`) says so; None: in the directories the call may be in."""

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
    guessing: bool = False

    def script(self, text: str, depth: int = 0) -> list[Finding]:
        """Every command that `text` would run as bash."""
        if depth > MAX_DEPTH:
            return [self.opaque(text, f"commands nested deeper than {MAX_DEPTH}")]
        try:
            atoms = self.reader.read(text)
        except Unprovable as error:
            return [self.opaque(text, str(error))]
        found: list[Finding] = []
        left: list[tuple[tuple[int, ...], list[str | None]]] = []
        for atom in atoms:
            # What a subshell changes of the directory ends with it.
            while left and atom.scope[: len(left[-1][0])] != left[-1][0]:
                self.directories = left.pop()[1]
            for size in range(len(left[-1][0]) if left else 0, len(atom.scope)):
                left.append((atom.scope[: size + 1], list(self.directories)))
            found += self.atom(atom, depth)
        if left:
            self.directories = left[0][1]
        if depth == 0 and max((finding.risk.rank for finding in found), default=0) == Risk.R2.rank:
            facts = _Facts()
            self._suspect(facts, text)
            found += [self._finding(facts, None, "")] if facts.classes else []
        return found or [self._finding(_Facts(), _NOTHING, text)]

    def opaque(self, text: str, why: str) -> Finding:
        """A command that cannot be read: why, and the class of that."""
        facts = _Facts()
        facts.opaque(f"cannot be read: {why}")
        self._suspect(facts, text)
        return self._finding(facts, None, text)

    def _suspect(self, facts: _Facts, text: str) -> None:
        """Raise what is held to R3 when commands of that class show in its text.

        A guess, made on words torn out of quotes and code, and so only ever allowed to raise.
        """
        if self.guessing:
            return
        self.guessing = True
        text = text[:MAX_GUESSED]
        text = f"{text} ; {_undone(text)}".replace("\n", " ; ")
        tried: set[tuple[str, ...]] = set()
        for found in _torn(text, self.bundle.parts.programs):
            if not found or tuple(found) in tried:
                continue
            if len(tried) >= MAX_GUESSES:
                break
            tried.add(tuple(found))
            argv = tuple(Word(word) for word in found)
            if any(finding.risk.rank >= Risk.R3.rank for finding in self._command(argv, MAX_DEPTH - 1)):
                facts.classes.append(ClassOf(Base.R3, Base.R3))
                facts.notes.append("something destructive shows in it")
                break
        self.guessing = False

    def atom(self, atom: Atom, depth: int) -> list[Finding]:
        """One simple command, its redirects, and the commands inside it."""
        self.count += 1
        if self.count > MAX_RUNS:
            return [self.opaque("", f"more than {MAX_RUNS} commands")]
        found = [self._redirect(redirect) for redirect in atom.redirects]
        found += [self._assignment(name) for name, _ in atom.assignments]
        if not atom.argv:
            return [finding for finding in found if finding is not None]
        found += self._command(atom.argv, depth, atom.feed)
        self._follow(atom.argv)
        return [finding for finding in found if finding is not None]

    def fields(self, values: Sequence[tuple[str, Word]], class_of: ClassOf, reason: str, standing: bool) -> Finding:
        """A tool call whose arguments are plain fields: `values` are `(role, word)`."""
        facts = _Facts()
        for role, word in values:
            self._word(facts, role, word)
        return self._finding(facts, Rule("tool", class_of, reason, None, standing), "")

    # --- one command -------------------------------------------------------------------------------------------------

    def _command(self, argv: tuple[Word, ...], depth: int, feed: Atom | None = None, fed: str = "") -> list[Finding]:
        shown = _shown(argv)
        facts = _Facts(argv=argv)
        node = self._program(argv[0], facts)
        if node is None:
            return [self._finding(facts, None, shown)]
        if argv[0].text in _TEST_PROGRAMS and _harmless_test(argv):
            return [self._finding(facts, self._rule(node, bare=False), shown)]
        positionals: list[Word] = []
        nested: list[Finding] = []
        given: set[str] = set()
        runs = False
        words = list(argv[1:])
        while words:
            word = words.pop(0)
            text = word.text
            if text is None:
                if not _fits_anywhere(node, word):
                    facts.unknown("a word that is only known when it runs")
                positionals.append(word)
                continue
            if word.glob and not node.any_words and (text[0] in "*?[-" or word.loose):
                facts.unknown(f"file names in place of '{text}' may be read as flags")
            if self._takes_command(node, positionals, text):
                nested += self._nested(node, [word, *words], depth, feed, facts.placeholder)
                runs = True
                break
            if text == "--" and "--" not in node.flags:
                runs = "command" in node.args and bool(words)
                if runs:
                    nested += self._nested(node, words, depth, feed, facts.placeholder)
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
        if (node.needs and not node.needs & given) or len(positionals) < node.least:
            facts.opaque("takes its commands from its input or from a person")
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

    def _nested(
        self, node: Node, words: list[Word], depth: int, feed: Atom | None, placeholder: str | None
    ) -> list[Finding]:
        """The command that a wrapper runs. `xargs` adds words of its input, or puts them in a placeholder's place."""
        if depth >= MAX_DEPTH:
            return [self.opaque(_shown(words), f"commands nested deeper than {MAX_DEPTH}")]
        if node.appends:
            below = self._listed(feed)
            if placeholder is None:
                words = [*words, Word(None, loose=True, below=below)]
            else:
                words = [_filled(word, placeholder, below) for word in words]
            feed = None
        return self.atom(Atom(tuple(words), feed=feed), depth + 1)

    def _listed(self, feed: Atom | None) -> tuple[str, ...]:
        """The paths below which a command that feeds `xargs` names files; empty when it may print anything.

        Names that hold blanks are split into words, so this bounds what is read, not which words there are: it is
        used only for programs that no word makes dangerous, and there at worst a planted name has a file read.
        """
        sought: list[str] = []
        for _ in range(8):
            if feed is None or not feed.argv or any(item.target.text != "/dev/null" for item in feed.redirects):
                return ()
            node, given, operands, values = self._read_flags(feed.argv)
            if node is None:
                return ()
            if "*" in node.lists or node.lists & given:
                return () if node.lists_not & given else (*_below(node, operands, values), *sought)
            fixed = node.args.count("text") - bool(node.drops_first & given)
            if (node.repeats and node.args[-1] == "text") or node.passes is None:
                return ()
            if not given <= node.passes or len(operands) > fixed:
                return ()
            # `grep '\\.env$'` looks for something: so does what follows.
            for text in [*(word.text or "" for word in operands), *values]:
                sought += [f"./*{piece}*" for piece in re.split(r"[|()]", re.sub(r"[\\\\^$]", "", text)) if piece]
            feed = feed.feed
        return ()

    def _read_flags(self, argv: Sequence[Word]) -> tuple[Node | None, set[str], list[Word], list[str]]:
        """A command as `_command` reads it, without judging: its node, flags, operands and the values of flags."""
        node = self.bundle.parts.programs.get(argv[0].text or "")
        given: set[str] = set()
        operands: list[Word] = []
        values: list[str] = []
        words = list(argv[1:])
        while node is not None and words:
            text = words.pop(0)
            if text.text is None:
                return None, given, operands, values
            if not operands and text.text in node.sub:
                node = node.sub[text.text]
                continue
            name, equals, attached = text.text.partition("=")
            flag = node.flags.get(text.text) or node.flags.get(name)
            if flag is None and text.text.startswith("-") and not node.single and not text.text.startswith("--"):
                letters = [node.flags.get(f"-{letter}") for letter in text.text[1:]]
                if text.text[1:].isdigit() and "-#" in node.flags:
                    continue
                if None in letters or any(letter and letter.value != "none" for letter in letters[:-1]):
                    short = letters[0]
                    if short is None or short.value == "none":
                        return None, given, operands, values
                    given.add(short.name)
                    values.append(text.text[2:])
                    continue
                given |= {letter.name for letter in letters if letter is not None}
                flag = letters[-1]
                equals = ""
            if flag is None:
                if text.text.startswith("-"):
                    return None, given, operands, values
                operands.append(text)
                continue
            given.add(flag.name)
            if flag.value == "none" or (flag.value == "optional" and not equals):
                continue
            value = attached if equals else (words.pop(0).text if words else None)
            if value is None:
                return None, given, operands, values
            values.append(value)
        return node, given, operands, values

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
        if node.literal and text not in node.flags:
            return words
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
        if flag.role == "placeholder":
            facts.placeholder = attached.text
            if not attached.text or attached.text.isalnum():
                facts.unknown("an unusual placeholder")
            return words
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
        """`find -exec`: the words up to `;` or `{} +` are a command; `{}` in it is known only when it runs."""
        ends = [
            place
            for place, word in enumerate(words)
            if word.text == ";" or (word.text == "+" and place and words[place - 1].text == "{}")
        ]
        if not ends or not ends[0]:
            facts.unknown("a command without an end")
            return []
        # `find` names what it found by its starting points, so no name is a flag, and all lie below them.
        before = facts.argv[: len(facts.argv) - len(words) - 1]
        node, _, operands, values = self._read_flags(before)
        below = _below(node, operands, values) if node is not None else ()
        command = [_filled(word, "{}", below, "./" if below else "") for word in words[: ends[0]]]
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
            if word.text is None and not node.any_words and not self._open(node, roles, place):
                facts.unknown("a word that is only known when it runs")
            # A word that the shell may replace by several stands in every place from its own on.
            last = place if word.text is not None and not word.glob else len(roles) - 1
            for role in dict.fromkeys(roles[min(place, len(roles) - 1) : last + 1] or roles[-1:]):
                self._word(facts, role, word)

    @staticmethod
    def _open(node: Node, roles: Sequence[str], place: int) -> bool:
        """True when a single word of any value may stand in this place, as far as its form goes."""
        return bool(roles) and roles[min(place, len(roles) - 1)] in {"text", "file"}

    def _word(self, facts: _Facts, role: str, word: Word) -> None:
        """Judge one word by its role: a pattern it must fit, or a target it names."""
        parts = self.bundle.parts
        if role == "text":
            return
        if role in {"file", "directory"}:
            bases = self.directories if facts.bases is None else facts.bases
            facts.kinds.add("path")
            facts.targets += self._paths(word, bases)
            if role == "directory":  # flags are judged before positional words, in their order
                text = None if word.glob else word.text
                facts.bases = [None if text is None else normal_path(base, text) for base in bases]
            return
        if role == "url":
            self._url(facts, word)
            return
        if role in sql.ROLES:
            self._statements(facts, role, word)
            return
        if role in scripts.READERS:
            if word.text is not None and not scripts.READERS[role](word.text):
                facts.unknown(f"the program may do more than read and print ({role})")
            return
        if role in parts.patterns:
            if word.text is not None and not parts.patterns[role].fullmatch(word.text):
                facts.unknown(f"'{word.text}' is not a word that may stand here ({role})")
            return
        facts.kinds.add(role)
        self._target(facts, role, None if word.glob else word.text)

    @staticmethod
    def _statements(facts: _Facts, role: str, word: Word) -> None:
        if word.text is None or word.glob:
            facts.opaque("statements that are only known when they run")
            return
        base, note = sql.judge(role, word.text)
        if base is not Base.R0:
            facts.classes.append(ClassOf(base, base))
            facts.notes.append(note)

    def _target(self, facts: _Facts, kind: str, text: str | None) -> None:
        target = None if text is None else self.bundle.target(kind, text)
        if target is None:
            shown = "unknown" if text is None else f"'{text}'"
            target = Target(Env.PROD, Sensitivity.SENSITIVE, Egress.OTHER if kind.endswith("host") else Egress.NONE)
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

    def _paths(self, word: Word, bases: Sequence[str | None] | None = None) -> list[Target]:
        """Where a path may lead from any directory that it may begin in; None: that the call may be in by then."""
        text = word.text
        if text is None:
            below = [Word(path, globs.is_glob(path)) for path in word.below]
            return [target for path in below for target in self._paths(path, bases)] or [UNREGISTERED]
        if word.glob and ".." in text.split("/"):
            return [UNREGISTERED]
        found: list[Target] = []
        # `REVISION:PATH` and `HOST:PATH` name a path after the colon.
        for piece in [text, *text.split(":")[1:]]:
            for directory in self.directories if bases is None else bases:
                place = normal_path(directory, piece)
                if place is None:
                    found.append(UNREGISTERED)
                elif word.glob and globs.is_glob(place):
                    found += [UNREGISTERED] if globs.is_hidden(place) else self._covered(place)
                else:
                    target = self.bundle.target("path", place)
                    found.append(UNREGISTERED if target is None else target)
        return found

    def _covered(self, glob: str) -> list[Target]:
        return self.bundle.targets_of_glob("path", glob) or [UNREGISTERED]

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
            and all(self._inside(directory) for directory in [*self.directories, *(facts.bases or ())])
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


def _undone(text: str) -> str:
    """`text` with the usual disguises taken off: quotes, escapes, `$(echo X)`, `${x:-X}`, `$IFS`."""
    text = re.sub(r"\$'((?:[^'\\]|\\.)*)'", lambda found: _spelled(found[1]), text)
    text = re.sub(r"\$(?=[\"'])", "", text)
    for name, value in re.findall(r"\b([A-Za-z_]\w*)=([^\s;&|'\"$]+)", text)[:8]:
        text = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", lambda _, value=value: value, text)
    for _ in range(3):
        text = re.sub(r"\$\((?:echo|printf(?: %s)?)\s+([^()`$]*)\)|`(?:echo|printf(?: %s)?)\s+([^`]*)`", r"\1\2", text)
    text = re.sub(r"\$\{\w+:?[-=+]([^{}]*)\}", r"\1", text)
    text = re.sub(r"\$\{IFS\}|\$IFS(\$9)?", " ", text)
    text = re.sub(r"\$\{\w+[,^@]*\w?\}|\$[@*0-9]|\$[a-z_]\w*", "", text)
    return re.sub(r"\\\n|[\\\"']", "", text)


def _spelled(text: str) -> str:
    try:
        return ansi_c(text)
    except Unprovable:
        return text


def _torn(text: str, programs: Container[str]) -> Iterator[list[str]]:
    """Words of what looks like commands anywhere in `text`: with quotes as the shell reads them, and without."""
    for found in re.finditer(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", text):
        if found[0] not in programs:
            continue
        rest = text[found.start() :]
        before = text[: found.start()]
        # A lone short word late in a text (`manage.py init`) is a word like any other.
        alone = len(before.split()) < 2 or len(found[0]) > MAX_COMMON_WORD
        quotes = [mark for mark in "'\"" if mark in before and mark in rest]
        for whole in [rest, *(rest[: rest.rfind(mark)] for mark in quotes)]:
            lexer = shlex.shlex(whole, posix=True, punctuation_chars=True)
            lexer.whitespace_split, lexer.commenters = True, ""
            try:
                words = list(takewhile(lambda word: not word or not set(word) <= set(";|&()<>"), lexer))
            except ValueError:
                continue
            if len(words) > 1 or alone:
                yield words
            break
        plain = re.split(r"[;&|\n(){}`$<>,\[\]]", re.sub(r"\\\n|[\\\"']", "", rest), maxsplit=1)[0].split()
        if len(plain) > 1 or alone:
            yield plain


def _fits_anywhere(node: Node, word: Word) -> bool:
    """True when a word of unknown value is surely one operand, or when no word is dangerous to the program."""
    if node.sub or "command" in node.args:
        return False
    return node.any_words or (not word.loose and bool(word.starts) and not word.starts.startswith("-"))


def _filled(word: Word, placeholder: str, below: tuple[str, ...], starts: str = "") -> Word:
    """A word of a command with the name of a file in the placeholder's place: not known, but perhaps where it lies."""
    if word.text is None or placeholder not in word.text:
        return word
    return Word(None, below=below, starts=starts) if word.text == placeholder else Word(None)


def _below(node: Node, operands: Sequence[Word], values: Sequence[str]) -> tuple[str, ...]:
    """Paths that cover what a listing command prints: its operands, and all that the values of its flags may name."""
    roles = [node.args[min(place, len(node.args) - 1)] for place in range(len(operands))] if node.args else []
    files = [word.text or "" for word, role in zip(operands, roles, strict=False) if role == "file"]
    starts = (
        files if "file" in node.args else [word.text or "" for word in operands if word.text not in _FIND_SIGNS]
    ) or ["."]
    if any(not start or start.startswith("-") for start in starts):
        return ()
    named = [value if value.startswith(("/", "~")) else f"{start}/{value}" for start in starts for value in values]
    return (*starts, *(path.lower() for path in named if path != path.lower()), *named)


def _harmless_test(argv: Sequence[Word]) -> bool:
    """`[ -n "$x" ]`, `[ "$a" = b ]`: one test whose operator is literal, so that no word can become `-v NAME[...]`.

    Values that are not known are only compared; `test` reads numbers as numbers and runs nothing.
    """
    words = list(argv[1:])
    if argv[0].text == "[" and (not words or words.pop().text != "]"):
        return False
    if any(word.loose or word.glob for word in words):
        return False
    if words and words[0].text == "!" and len(words) > 1:
        words = words[1:]
    if len(words) == 1:
        return True
    if len(words) == 2:
        return words[0].form is None and words[0].text in _TEST_UNARY
    return len(words) == 3 and words[1].form is None and words[1].text in _TEST_BINARY


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
