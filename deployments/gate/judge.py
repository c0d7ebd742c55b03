"""What one simple command is worth: its words read as the program reads them, its rule, its targets, its class.

The law of this module: a word that is not understood never lowers anything. An unknown program, subcommand, flag, or
word too many is UNKNOWN; a word that is only known when it runs is UNKNOWN unless the program is harmless with any;
an unregistered target is production and sensitive.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from deployments.gate import feeds, guess, outputs
from deployments.gate.findings import NOTHING, Facts, Finding, as_shown, settle
from deployments.gate.grammar import ClassOf
from deployments.gate.operands import (
    COUNTS,
    RUNNING,
    filled,
    fits_anywhere,
    fits_value,
    handed,
    harmless_names,
    harmless_test,
    judge_assignment,
    judge_here,
    judge_operands,
    judge_second,
    judge_several,
    placed,
    take_rest,
    values_alone,
)
from deployments.gate.paths import followed, normal_path
from deployments.gate.policy import Bundle
from deployments.gate.roles import judge_implied, judge_input, judge_path, judge_word
from deployments.gate.shell.atoms import (
    MAX_DEPTH,
    MAX_RUNS,
    PIPED,
    Atom,
    Cut,
    Redirect,
    Source,
    Unprovable,
    Word,
    source_of,
)
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import Flag, Node, Rule, StandingPlan
from deployments.gate.tables import Base
from deployments.ports import Risk

__all__ = ["Finding", "Judge", "normal_path"]

_TEST_PROGRAMS = frozenset({"test", "["})
_NUMBER_AND_FLAGS = re.compile(r"-[0-9]+(?P<letters>[A-Za-z]*)")
_DESCRIPTOR = re.compile(r"[0-9]+|-")
_FLAG_BEFORE_VALUE = re.compile(r"(--[A-Za-z][A-Za-z0-9-]*)=")
MAX_GUESSED = 4_000
MAX_GUESSES = 24


@dataclass(slots=True)
class Judge:
    """Judges the commands of one call; remembers where `cd` may have led. Not reused between calls.

    `arguments` are the words that a script is given (`sh -c TEXT NAME WORD ...`), its name first.
    """

    bundle: Bundle
    reader: ShellReader
    standing: StandingPlan | None
    directories: list[str | None] = field(default_factory=lambda: ["."])
    count: int = 0
    guessing: bool = False
    arguments: tuple[Word, ...] = ()

    def script(self, text: str, depth: int = 0, portable: bool = False) -> list[Finding]:
        """Every command that `text` would run as bash, or (`portable`) as whatever shell is called `sh`."""
        if depth > MAX_DEPTH:
            return [self.opaque(text, f"commands nested deeper than {MAX_DEPTH}")]
        try:
            atoms = self.reader.read_portable(text) if portable else self.reader.read(text)
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
        worst = max((finding.risk.rank for finding in found), default=0)
        # What a tenant's names raise to R3 must not hide what shows in the text beside them.
        most = Risk.R3 if self.bundle.raising else Risk.R2
        if depth == 0 and Risk.R2.rank <= worst <= most.rank:
            facts = Facts()
            self._suspect(facts, text)
            found += [self._settled(facts, None, "")] if facts.classes else []
        return found or [self._settled(Facts(), NOTHING, text)]

    def opaque(self, text: str, why: str) -> Finding:
        """A command that cannot be read: why, and the class of that."""
        facts = Facts()
        facts.opaque(f"cannot be read: {why}")
        self._suspect(facts, text)
        return self._settled(facts, None, text)

    def _suspect(self, facts: Facts, text: str) -> None:
        """Raise what is held to R3, or FORBIDDEN, when commands of that class show in its text.

        A guess, made on words torn out of quotes and code, and so only ever allowed to raise.
        """
        if self.guessing:
            return
        self.guessing = True
        ran, self.count = self.count, 0  # what the call runs leaves the guesses a count of their own
        text = text[:MAX_GUESSED]
        text = f"{text} ; {guess.undone(text)}".replace("\n", " ; ")
        tried: set[tuple[str, ...]] = set()
        worst = Risk.R2
        for found in guess.torn(text, self.bundle.parts.programs):
            if tuple(found) in tried:
                continue
            if len(tried) >= MAX_GUESSES:
                break
            tried.add(tuple(found))
            argv = tuple(Word(word) for word in found)
            for finding in self._command(argv, MAX_DEPTH - 1):
                worst = worst.at_least(finding.risk)
        if worst is not Risk.R2:
            facts.classes.append(ClassOf(Base(worst.value), Base(worst.value)))
            facts.notes.append("something forbidden or destructive shows in it")
        self.guessing, self.count = False, ran

    def atom(self, atom: Atom, depth: int) -> list[Finding]:
        """One simple command, its redirects, and the commands inside it."""
        self.count += 1
        if self.count > MAX_RUNS:
            return [self.opaque("", f"more than {MAX_RUNS} commands")]
        programs = self.bundle.parts.programs
        argv = tuple(outputs.resolved(programs, word, self.arguments) for word in atom.argv)
        found = [self._redirect(redirect) for redirect in atom.redirects]
        found += [self._assignment(name, value) for name, value in atom.assignments]
        found += [self._calculated(outputs.resolved(programs, word, self.arguments)) for word in atom.numbers]
        if not atom.argv:
            return [finding for finding in found if finding is not None]
        # What is redirected into a command takes the place of the pipe.
        fed = not any(redirect.operator.startswith("<") for redirect in atom.redirects)
        found += self._command(argv, depth, atom.feed if fed else None, feeds.given_text(atom))
        self.directories = followed(self.directories, argv)
        return [finding for finding in found if finding is not None]

    def _calculated(self, word: Word) -> Finding | None:
        """A word that the shell calculates with: bash evaluates its text, so anything but a number may be code."""
        if word.kind in {"number", "integer"} or (word.text is not None and word.text.isdecimal()):
            return None
        return self.opaque("", "arithmetic with a value that is not known to be a number")

    def fields(self, values: Sequence[tuple[str, Word]], class_of: ClassOf, reason: str, standing: bool) -> Finding:
        """A tool call whose arguments are plain fields: `values` are `(role, word)`."""
        facts = Facts()
        for role, word in values:
            judge_word(self.bundle, facts, role, word, self.directories)
        return self._settled(facts, Rule("tool", class_of, reason, None, standing), "")

    def _settled(self, facts: Facts, rule: Rule | None, shown: str) -> Finding:
        return settle(self.bundle, facts, rule, shown, self.standing is not None, self.directories)

    # --- one command -------------------------------------------------------------------------------------------------

    def _command(
        self, argv: tuple[Word, ...], depth: int, feed: Atom | None = None, given: str | None = None
    ) -> list[Finding]:
        shown = as_shown(argv)
        facts = Facts(argv=argv)
        node = self._program(argv[0], facts)
        if node is None:
            return [self._settled(facts, None, shown)]
        if argv[0].text in _TEST_PROGRAMS and harmless_test(argv):
            return [self._settled(facts, self._rule(facts, node, bare=False), shown)]
        positionals: list[Word] = []
        nested: list[Finding] = []
        runs = False
        words = list(argv[1:])
        while words:
            word = words.pop(0)
            text = word.text
            if node.operands_end_flags and positionals and not RUNNING & set(node.args):
                positionals += [word, *words]
                break
            if text is None:
                attached = self._attached(node, word)
                if attached is not None:
                    facts.given.add(attached[0].name)
                    words = self._value(facts, node, *attached, words, depth, nested)
                    continue
                # No standing plan covers a word that nobody knows: it may name hooks, or pipelines.
                facts.wide = facts.wide or not outputs.samples(word)
                if not fits_anywhere(node, word, bool(positionals)):
                    facts.unknown("a word that is only known when it runs")
                positionals.append(word)
                continue
            if word.glob and not harmless_names(node, word) and (text[0] in "*?[-" or word.loose):
                facts.unknown(f"file names in place of '{text}' may be read as flags")
            if word.loose and not word.glob and not node.any_words:
                facts.unknown("the name of the working directory may be several words, and flags among them")
            if self._takes_command(node, positionals, text):
                nested += self._nested(node, [word, *words], depth, feed, facts)
                runs = True
                break
            if text == "--" and not positionals and node.args[:1] == ("archive-name",):
                # `tar tf`: the word after the letters is the archive, even this one.
                positionals.append(word)
                continue
            if text == "--":
                runs = bool(words) and not {"command", "script"}.isdisjoint(node.args)
                if runs:
                    nested += self._nested(node, words, depth, feed, facts)
                else:
                    take_rest(facts, node, positionals, words)
                break
            if not positionals and not word.glob and text in node.sub:
                node = node.sub[text]
                continue
            if text != "-" and (text.startswith("-") or text in node.flags):
                words = self._flag(facts, node, word, words, depth, nested)
                continue
            if node.requires and not node.requires & facts.given:
                facts.opaque("runs the file that it is given")
            positionals.append(word)
        drop = bool(node.drops_first & facts.given)
        judge_operands(self.bundle, facts, node, positionals, self.directories, drop)
        if node.here & facts.given or ("*" in node.here and feed is None):
            judge_here(self.bundle, facts, node, positionals, self.directories, drop)
        if node.requires and not node.requires & facts.given:
            facts.opaque("runs what it is given on its input or in a file")
        if (node.needs and not node.needs & facts.given) or len(positionals) < node.least:
            judge_input(facts, node.reads, given, self.bundle)
        for flag in facts.deferred:
            if not flag.waived_by & facts.plain:
                self._effects(facts, flag)
        judge_implied(self.bundle, facts, node)
        running = {"command", "script"} & set(node.args)
        rule = self._rule(facts, node, bare=not runs if running else not positionals)
        if rule is None:
            facts.unknown(f"'{' '.join(node.path)}' has no rule")
        return [self._settled(facts, rule, shown), *nested]

    def _program(self, word: Word, facts: Facts) -> Node | None:
        name = word.text
        if name is None or word.glob:
            facts.opaque("the program is only known when it runs")
            return None
        directory, slash, base = name.rpartition("/")
        if slash:
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
        role = next((role for role in ("command", "script") if role in node.args), None)
        if role is None or text.startswith("-"):
            return False
        before = node.args[: node.args.index(role)]
        fixed = [role for role in before if role != "assignment"]
        if "assignment" in before and "=" in text:
            return False
        return len(positionals) >= len(fixed)

    def _nested(self, node: Node, words: list[Word], depth: int, feed: Atom | None, facts: Facts) -> list[Finding]:
        """The command that a wrapper runs. `xargs` adds words of its input, or puts them in a placeholder's place."""
        if depth >= MAX_DEPTH:
            return [self.opaque(as_shown(words), f"commands nested deeper than {MAX_DEPTH}")]
        if "script" in node.args:
            if any(word.text is None or word.glob or word.symbolic for word in words):
                return [self.opaque(as_shown(words), "runs words that are only known when it runs")]
            return self.script(" ".join(word.text or "" for word in words), depth + 1, _for_any_shell(facts))
        if node.appends:
            own = facts.argv[: len(facts.argv) - len(words)]
            added = handed(feeds.read_flags(self.bundle.parts.programs, own), feed)
            if facts.placeholder is None:
                words = [*words, added]
            else:
                line = source_of(feed, Cut.LINE) if added.pieces != (Source(),) else Source()
                words = [placed(word, facts.placeholder, line) for word in words]
            feed = None
        return self.atom(Atom(tuple(words), feed=feed), depth + 1)

    def _rule(self, facts: Facts, node: Node, bare: bool) -> Rule | None:
        rules = self.bundle.parts.rules.get(node.path, ())
        return next((rule for rule in rules if facts.rule_fits(rule, bare)), None)

    # --- flags -------------------------------------------------------------------------------------------------------

    def _flag(
        self, facts: Facts, node: Node, word: Word, words: list[Word], depth: int, nested: list[Finding]
    ) -> list[Word]:
        """Read one flag word and its value; returns the words that are left."""
        text = word.text or ""
        if node.literal and text not in node.flags:
            return words
        counted = _NUMBER_AND_FLAGS.fullmatch(text) if "-#" in node.flags and text not in node.flags else None
        if counted is not None:
            # `tail -100f`: the letters are flags of their own, and of those only ones without a value.
            self._letters(facts, node, counted["letters"])
            return words
        exact = node.flags.get(text)
        if exact is None and not node.single and not text.startswith("--"):
            return self._shorts(facts, node, word, words, depth, nested)
        name, equals, attached = text.partition("=")
        flag = exact or node.flags.get(name)
        if flag is None or (equals and flag.value == "none" and exact is None):
            facts.unknown(f"the flag '{name}' is not known to '{' '.join(node.path)}'")
            return words
        facts.given.add(flag.name)
        value = Word(attached, word.glob, symbolic=word.symbolic) if equals and exact is None else None
        if value is not None and flag.second is not None:
            facts.unknown(f"the flag '{name}' takes two words of their own")
            return words
        return self._value(facts, node, flag, value, words, depth, nested)

    def _attached(self, node: Node, word: Word) -> tuple[Flag, Word] | None:
        """The flag and the value of `--since=$(...)`, where the name of the flag is written and only the value is not.

        An unknown value cannot become another flag, but what the shell splits off it may: that is for `fits_value`.
        """
        first, *rest = word.pieces or ("",)
        named = _FLAG_BEFORE_VALUE.match(first) if isinstance(first, str) else None
        flag = node.flags.get(named[1]) if named is not None else None
        if named is None or flag is None or flag.value == "none" or flag.second is not None or node.literal:
            return None
        known = str(first)[named.end() :]
        pieces = (known, *rest) if known else tuple(rest)
        value = Word(None, loose=word.loose, form=word.form, starts=known, several=word.loose, pieces=pieces)
        value = outputs.resolved(self.bundle.parts.programs, value, self.arguments)
        # Nothing of such a kind holds a blank: it is one word, and with the name of the flag before it no empty one.
        whole = value.kind not in {"", "path"} and not value.several
        return flag, replace(value, loose=False) if whole else value

    def _letters(self, facts: Facts, node: Node, letters: str) -> None:
        for letter in letters:
            flag = node.flags.get(f"-{letter}")
            if flag is None or flag.value != "none":
                facts.unknown(f"'-{letter}' after a number is not known to '{' '.join(node.path)}'")
                return
            facts.given.add(flag.name)
            self._effects(facts, flag)

    def _shorts(
        self, facts: Facts, node: Node, word: Word, words: list[Word], depth: int, nested: list[Finding]
    ) -> list[Word]:
        """A bundle of one-letter flags; the first one that takes a value takes the rest of the word."""
        text = word.text or ""
        for place, letter in enumerate(text[1:], start=1):
            flag = node.flags.get(f"-{letter}")
            if flag is None:
                facts.unknown(f"the flag '-{letter}' is not known to '{' '.join(node.path)}'")
                return words
            facts.given.add(flag.name)
            rest = text[place + 1 :]
            if flag.value == "none":
                facts.plain.add(flag.name)
                self._deferred(facts, flag)
                continue
            attached = Word(rest.removeprefix("="), word.glob, symbolic=word.symbolic) if rest else None
            return self._value(facts, node, flag, attached, words, depth, nested)
        return words

    def _value(
        self,
        facts: Facts,
        node: Node,
        flag: Flag,
        attached: Word | None,
        words: list[Word],
        depth: int,
        nested: list[Finding],
    ) -> list[Word]:
        self._deferred(facts, flag)
        if flag.role == "exec":
            return self._exec(facts, words, depth, nested)
        if flag.value == "none" or (flag.value == "optional" and attached is None):
            facts.plain.add(flag.name)
            return words
        if attached is None:
            if not words:
                facts.unknown(f"the flag '{flag.name}' lacks its value")
                return words
            attached, *words = words
            if attached.several and not node.any_words and not values_alone(flag, attached):
                judge_several(self.bundle, facts, node, attached, self.directories)
        if flag.role == "placeholder":
            facts.placeholder = attached.text or None
            if not attached.text or attached.text.isalnum():
                facts.unknown("an unusual placeholder")
            return words
        if facts.placeholder is not None and flag.name in COUNTS:
            facts.unknown(f"'{flag.name}' after a placeholder may take it back")
        if flag.role == "shell":
            if attached.text is None or attached.glob or attached.symbolic:
                facts.opaque("runs a command that is only known when it runs")
            else:
                outer, self.arguments = self.arguments, tuple(words)
                nested += self.script(attached.text, depth + 1, _for_any_shell(facts))
                self.arguments = outer
            return words
        facts.wide = facts.wide or (attached.text is None and not outputs.samples(attached))
        if attached.text is None and not fits_value(flag, attached, last=not words):
            facts.unknown("a word that is only known when it runs")
        judge_word(self.bundle, facts, flag.role, attached, self.directories)
        return words if flag.second is None else judge_second(self.bundle, facts, flag.second, words, self.directories)

    def _exec(self, facts: Facts, words: list[Word], depth: int, nested: list[Finding]) -> list[Word]:
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
        read = feeds.read_flags(self.bundle.parts.programs, before)
        below = feeds.below(read.node, read.operands, read.values) if read is not None else ()
        command = [filled(word, "{}", below, "./" if below else "") for word in words[: ends[0]]]
        nested += self.atom(Atom(tuple(command)), depth + 1)
        return words[ends[0] + 1 :]

    def _deferred(self, facts: Facts, flag: Flag) -> None:
        """The effects of a flag: at once, or when all flags are known if another one may waive them."""
        if flag.waived_by:
            facts.deferred.append(flag)
        else:
            self._effects(facts, flag)

    def _effects(self, facts: Facts, flag: Flag) -> None:
        for name in flag.effects:
            facts.effect(name, self.bundle.parts.effects[name], flag.name)

    # --- surroundings ------------------------------------------------------------------------------------------------

    def _redirect(self, redirect: Redirect) -> Finding | None:
        operator = redirect.operator
        word = outputs.resolved(self.bundle.parts.programs, redirect.target, self.arguments)
        if operator in {"<<", "<<-", "<<<"}:
            return None
        if operator in {">&", "<&"} and word.text is not None and _DESCRIPTOR.fullmatch(word.text):
            return None
        if word.text in self.bundle.sinks and not word.glob:
            return None
        name = "<" if operator in {"<", "<&"} else ">"
        node = self.bundle.parts.programs.get(name)
        facts = Facts()
        if name == "<" and word.below == PIPED:
            return None  # what is read is printed by a command that is judged
        if node is not None and word.text is None and word.kind == "path" and name == "<" and not word.several:
            judge_path(self.bundle, facts, "file", word, self.directories)
            return self._settled(facts, self._rule(facts, node, bare=False), f"{operator} ?")
        if (
            node is None
            or word.text is None
            or (word.glob and name == ">")
            or "/dev/tcp" in word.text
            or "/dev/udp" in word.text
        ):
            facts.opaque("a redirect to a place that is not known")
            return self._settled(facts, None, f"{operator} {word.text or '?'}")
        judge_path(self.bundle, facts, "written" if name == ">" else "file", word, self.directories)
        rule = self._rule(facts, node, bare=False)
        if rule is None:
            facts.unknown("redirects have no rule")
        return self._settled(facts, rule, f"{operator} {word.text}")

    def _assignment(self, name: str, value: Word) -> Finding | None:
        facts = Facts()
        judge_assignment(self.bundle, facts, name, value)
        return self._settled(facts, None, f"{name}=...") if facts.classes else None


def _for_any_shell(facts: Facts) -> bool:
    """True for a program that runs text by a shell that need not be bash."""
    return (facts.argv[0].text or "").rpartition("/")[2] != "bash"
