"""What one word of a command means by its role: a pattern it must fit, or a target that it names."""

import re
from collections.abc import Sequence
from typing import TypeAlias

from deployments.gate import addresses, globs, outputs, paths, python_reads, scripts, sql
from deployments.gate.findings import Facts
from deployments.gate.grammar import ClassOf
from deployments.gate.paths import normal_path
from deployments.gate.policy import DEFAULT_TARGET, Bundle, unregistered
from deployments.gate.shell.atoms import Word
from deployments.gate.specs import Node, Target
from deployments.gate.tables import Base, Env, Sensitivity

DATABASE = "database"
"""The kind of names that tenants alone register: of databases, as words of the role `db-name` and in statements."""
_DATABASE_NAME = "db-name"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_$-]*")
Directories: TypeAlias = Sequence[str | None]
# Nothing that two readers of addresses could split differently: no user part, no backslash, no odd character.
_ADDRESS = re.compile(
    r"(?:https?://)?(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?P<path>/[!-~]*|\?[A-Za-z0-9=&._%+-]*)?"
)
_ARGUMENT_FILE = re.compile(r"@(?:/|~/|\.)")
# What opens `https://host/x` or `file:x?mode=ro` in place of a file: duckdb, sqlite3 and others.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE_ADDRESS = re.compile(
    r"file:(?://(?=/))?(?P<path>(?!//)[A-Za-z0-9_./-]+)(?:\?(?:mode|cache|immutable)=[a-z0-9]+(?:&(?:mode|cache|immutable)=[a-z0-9]+)*)?"
)
# Any word may stand in such a place, as far as the command itself goes.
_FREE = frozenset({"text", "name-regex", "name-extension"})
# No letters but those of printing, deleting, counting and ending: whatever the numbers are, or if they are missing, sed
# does no more than that, or refuses the script.
_LINE_NUMBERS = re.compile(r"[0-9\n,+~$;!{} pdq=-]*")
# To yq the first word is a file if there is one of that name, whatever else it could mean; one in `.yq` holds a filter.
_YQ_FILE = re.compile(r"(?:\.{0,2}/|~/)?[A-Za-z0-9_][A-Za-z0-9_./-]*\.(?:ya?ml|json|toml|xml|properties|csv|tsv|ini)")
_YQ_HIDDEN_FILE = re.compile(r"\.(?:env\.[a-z]+|[A-Za-z_][A-Za-z0-9_]*)")
# Roles of targets of which a word of such a kind may name any.
_NAMING = {"namespace": ("kube-name", "name"), "container": ("name", "hash")}
# Patterns that tell no name, or no address of a resource, from another.
_PLAIN = {
    "name": ("name", "kube-name"),
    "aws-value": ("name", "arn"),
    "az-value": ("name",),
    "flagless": ("name", "kube-name"),
}
# Up to the first `?` nothing is a wildcard, and after it there is no other part of a path.
_QUERY = re.compile(r"[A-Za-z0-9_./{}-]+\?[A-Za-z0-9_.&%:+,-]+=[A-Za-z0-9_.=&%:+,-]*")
# As a glob it could only become the addresses `1` and `:`, which lead nowhere.
_LOOPBACK = re.compile(r"https?://\[::1\](?::[0-9]{1,5})?(?:/[A-Za-z0-9._/-]*)?")
# On its input a client reads more than statements: `\\!`, `.shell`, `go`, and variables of its own (`:name`).
_CLIENT_COMMAND = re.compile(r"\\|^\s*[./#]|^\s*go\s*$|(?<!:):(?![:\s]|$)", re.M | re.I)
# What sqlite3 obeys at the beginning of its input to print in another form.
_SQLITE_SHOWING = re.compile(
    r"\A(?:\.(?:headers? (?:on|off)|mode (?:csv|column|json|line|list|table|markdown|box|tabs)|timer (?:on|off))\n)+"
    r"(?=[^\n])"
)
# With one of these flags curl takes brackets and braces as they are.
_NO_GLOBBING = frozenset({"-g", "--globoff"})


def judge_word(bundle: Bundle, facts: Facts, role: str, word: Word, directories: Directories) -> None:
    """Judge one word by its role: a pattern it must fit, or a target it names."""
    parts = bundle.parts
    if word.text is not None and _ARGUMENT_FILE.match(word.text):
        # Many programs read their arguments, or a value, from `@FILE`.
        facts.targets += paths.sensitive_targets(bundle, Word(word.text[1:]), directories)
    if role in _FREE:
        return
    if role == _DATABASE_NAME:
        _database(bundle, facts, None if word.glob else word.text)
    if word.text is None and word.kind and word.kind != "path":
        _judge_typed(bundle, facts, role, word, directories)
        return
    if role == "operand":
        _operand(facts, word)
        role = "file"
    if role in {"file", "written", "directory"}:
        _located(bundle, facts, role, word, directories)
        judge_path(bundle, facts, role, word, directories)
        return
    if word.symbolic:
        facts.unknown("the name of the working directory may be read as code, or as another name")
    if role == "url":
        _url(bundle, facts, word)
        return
    if role in {"file-glob", "file-regex"}:
        facts.targets += paths.chosen_targets(bundle, word, regex=role == "file-regex")
        return
    if role in sql.ROLES:
        _statements(bundle, facts, role, word)
        return
    if role in scripts.SHOWING:
        if word.text is None or word.glob or not scripts.SHOWING[role](word.text):
            facts.targets.append(Target(sensitivity=Sensitivity.SENSITIVE))
            facts.notes.append("the template may print settings with their secrets")
        return
    if role == "yq-program":
        if word.text is not None and not word.glob and _YQ_FILE.fullmatch(word.text):
            judge_path(bundle, facts, "file", word, directories)
            return
        _yq(bundle, facts, word, directories)
        role = "jq-program"
    if role in scripts.READERS:
        # A file's name is a program as soon as it stands where one is read: `sed "$f"`, `awk src/* data`.
        if word.text is None or word.glob or not scripts.READERS[role](word.text):
            facts.unknown(f"the program may do more than read and print ({role})")
        return
    if role == "python-program":
        _python(bundle, facts, word, directories)
        return
    if role in parts.patterns:
        if not _fits(bundle, role, word):
            facts.unknown(f"'{word.text or '?'}' is not a word that may stand here ({role})")
        if bundle.spec.word_uses.get(role) == "read":
            facts.targets += paths.sensitive_targets(bundle, word, directories)
        return
    facts.kinds.add(role)
    judge_target(bundle, facts, role, None if word.glob else word.text)


def _fits(bundle: Bundle, role: str, word: Word) -> bool:
    """True when a word fits a pattern, and all that it may be when it runs does."""
    pattern, use = bundle.parts.patterns[role], bundle.spec.word_uses.get(role)
    if word.text is not None and not word.glob:
        return pattern.fullmatch(word.text) is not None
    if use == "any-file":
        return all(pattern.fullmatch(place) for place in _places(word)) and bool(_places(word))
    if use == "query" and word.text is not None:
        # Another letter in place of the `?` makes it the address of nothing: no name there holds a `=`.
        return _QUERY.fullmatch(word.text) is not None and pattern.fullmatch(word.text) is not None
    return False


def _places(word: Word) -> tuple[str, ...]:
    """How names begin that a word may be: up to a slash for a glob, or where they were searched; none if not known."""
    if word.text is not None:
        known, slash, _ = re.split(r"[*?\[]", word.text, maxsplit=1)[0].rpartition("/")
        return (f"{known}{slash}",) if slash else ()
    return word.below if word.kind == "path" and word.dashless else ()


def _judge_typed(bundle: Bundle, facts: Facts, role: str, word: Word, directories: Directories) -> None:
    """A word of which only the kind is known: for some kinds a few texts stand for all, others fit by their roles."""
    texts = () if role.endswith("host") else outputs.samples(word)
    if role == "sed-script" and texts and all(_LINE_NUMBERS.fullmatch(text) for text in texts):
        return
    for text in texts:
        judge_word(bundle, facts, role, Word(text), directories)
    if texts:
        return
    if word.kind in _PLAIN.get(role, ()):
        return
    if word.kind in _NAMING.get(role, ()):
        facts.kinds.add(role)
        facts.targets += _any(bundle, role)
        return
    facts.unknown("a word that is only known when it runs")


def _any(bundle: Bundle, kind: str) -> list[Target]:
    """Every target of a kind that a name may be."""
    registered = [*bundle.targets.get(kind, ()), *(bundle.base.targets.get(kind, ()) if bundle.base else ())]
    rest = [] if any("*" in patterns for patterns, _ in registered) else [paths.UNREGISTERED]
    return [*(target for _, target in registered), *rest, *bundle.raised(kind, None)]


def judge_path(bundle: Bundle, facts: Facts, role: str, word: Word, directories: Directories) -> None:
    """A path that is read, changed (`written`), or gone to (`directory`: later paths begin there)."""
    bases = directories if facts.bases is None else facts.bases
    facts.kinds.add("path")
    if role == "directory":  # flags are judged before positional words, in their order
        facts.targets += paths.directory_targets(bundle, word, bases)
        text = None if word.glob else word.text
        facts.bases = [None if text is None else normal_path(base, text) for base in bases]
        return
    if role == "written" and word.text is None:
        word = Word(None)  # what is listed below a place may be any file there, hooks and settings among them
    facts.targets += paths.targets(bundle, word, bases)
    if role == "written":
        held = paths.targets(bundle, word, bases, "written")
        facts.targets += held
        if any(target.class_of is not None for target in held):
            facts.notes.append(f"writes '{word.text or '?'}', which others run or obey")


def _located(bundle: Bundle, facts: Facts, role: str, word: Word, directories: Directories) -> None:
    """An address where a file is named: programs that take one fetch it, or find another file than its letters say."""
    text = word.text or ""
    if not text.startswith("file:"):
        if _SCHEME.match(text):
            facts.unknown("an address in place of a file")
        return
    plain = _FILE_ADDRESS.fullmatch(text)
    if plain is None or word.glob:
        facts.unknown("an address of a file that is not plain")
        return
    judge_path(bundle, facts, role, Word(plain["path"]), directories)


def _operand(facts: Facts, word: Word) -> None:
    """A file's name that may also stand for arguments, or commands, in a file: by its first letter."""
    first = (word.starts if word.text is None else word.text)[:1]
    if first in {"", "@", "+"} or (word.glob and first in {"*", "?", "["}):
        facts.unknown("a word that may be read as '@FILE' or '+COMMAND'")


def _python(bundle: Bundle, facts: Facts, word: Word, directories: Directories) -> None:
    """A program of Python: what it reads is judged as if the command named it."""
    found = None if word.text is None or word.glob else python_reads.reads(word.text)
    if found is None:
        facts.unknown("the program may do more than read and print (python-program)")
        return
    # Modules are looked for in the working directory first.
    if found.modules and any(place is None or place.startswith(("/", "~", "..")) for place in directories):
        facts.unknown("what the program imports may be files from outside of the workspace")
    for place in found.places:
        judge_path(bundle, facts, "file", Word(place.shown, place.glob), directories)


def _yq(bundle: Bundle, facts: Facts, word: Word, directories: Directories) -> None:
    """A filter that yq may take for the name of a hidden file: `.env`, or `.x.yq`, which it would run."""
    text = word.text or ""
    if text.endswith(".yq"):
        facts.unknown("a file with a program for yq")
    if _YQ_HIDDEN_FILE.fullmatch(text):
        facts.targets += paths.sensitive_targets(bundle, word, directories)


def _statements(bundle: Bundle | None, facts: Facts, role: str, word: Word) -> None:
    if word.text is None or word.glob:
        facts.opaque("statements that are only known when they run")
        facts.targets += [] if bundle is None else bundle.raised(DATABASE, None)
        return
    if bundle is not None and DATABASE in bundle.raising:
        for name in dict.fromkeys(_NAME.findall(word.text)):
            _database(bundle, facts, name)
    base, note = sql.judge(role, word.text)
    if base is not Base.R0:
        facts.classes.append(ClassOf(base, base))
        facts.notes.append(note)


def _database(bundle: Bundle, facts: Facts, name: str | None) -> None:
    """What a tenant's settings say of a database; of one that nobody knows, all that they say."""
    found = bundle.raised(DATABASE, name)
    if found:
        facts.notes.append(f"the database {'unknown' if name is None else repr(name)} is taken more seriously here")
    facts.targets += found


def judge_input(facts: Facts, role: str | None, text: str | None, bundle: Bundle | None = None) -> None:
    """Statements that a client reads on its input: they are known, or they are held; so are commands of the client."""
    if role == "sql-sqlite" and text is not None:
        text = _SQLITE_SHOWING.sub("", text)
    if role is None or text is None or _CLIENT_COMMAND.search(text):
        facts.opaque("takes its commands from its input or from a person")
        if bundle is not None and role in sql.ROLES:
            facts.targets += bundle.raised(DATABASE, None)
        return
    _statements(bundle, facts, role, Word(text))


def judge_target(bundle: Bundle, facts: Facts, kind: str, text: str | None) -> None:
    """The target of `kind` that `text` names (None: nobody knows which); what is not registered is the worst."""
    target = None if text is None else bundle.target(kind, text)
    if kind == "host" and text is not None:
        # What is forbidden is so under every number that it may be written as.
        others = [bundle.target(kind, spelled) for spelled in addresses.spellings(text)]
        facts.targets += [other for other in others if other is not None and other.class_of is not None]
    if target is None:
        shown = "unknown" if text is None else f"'{text}'"
        target = unregistered(kind)
        facts.notes.append(f"the {kind} {shown} is not registered")
    elif target.class_of is not None:
        facts.notes.append(f"the {kind} '{text}' is registered as {target.class_of.prod}")
    elif target.sensitivity is Sensitivity.SENSITIVE:
        facts.notes.append(f"the {kind} '{text}' is sensitive")
    facts.targets.append(target)


def judge_implied(bundle: Bundle, facts: Facts, node: Node) -> None:
    """The default targets of the kinds that no word named."""
    cluster_scoped = any(target.cluster_scoped for target in facts.targets)
    for kind in node.targets:
        if kind in facts.kinds or (kind == "namespace" and cluster_scoped):
            continue
        judge_target(bundle, facts, kind, DEFAULT_TARGET)


def judge_objects(bundle: Bundle, facts: Facts, words: Sequence[Word]) -> None:
    """`TYPE[,TYPE] [NAME ...]` and `TYPE/NAME`, also mixed: kinds are targets, as are the names of some kinds."""
    typed = [word for word in words if word.kind == "kube-object"]
    slashed = [word for word in words if word.text is not None and "/" in word.text]
    plain = [word for word in words if word not in slashed and word not in typed]
    pairs: list[tuple[str | None, list[str | None]]] = [(kind, [None]) for word in typed for kind in word.of or (None,)]
    for word in slashed:
        kind, _, name = (word.text or "").partition("/")
        pairs.append((None, [None]) if word.glob else (kind, [name]))
    if plain:
        names = [None if word.glob else word.text for word in plain[1:]]
        first = None if plain[0].glob else plain[0].text
        pairs += [(kind, names) for kind in (first.split(",") if first is not None else [None])]
    for kind, names in pairs:
        short = None if kind is None else kind.lower().partition(".")[0]
        judge_target(bundle, facts, "resource", short)
        target = facts.targets[-1]
        if target.names is None:
            continue
        if not names:
            facts.targets.append(Target(env=Env.PROD))
        if any(word.kind in {"kube-object", "kube-name"} for word in words):
            facts.targets += _any(bundle, target.names)
            names = [name for name in names if name is not None]
        for name in names:
            judge_target(bundle, facts, target.names, name)


def _url(bundle: Bundle, facts: Facts, word: Word) -> None:
    facts.kinds.add("host")
    if word.text is None or "{" in word.text:
        facts.unknown("an address that is only known when it runs")
        return
    address = _ADDRESS.fullmatch(word.text)
    if address is None:
        facts.unknown("an address that is not plain http(s)")
        return
    path = address["path"] or ""
    if not _NO_GLOBBING & facts.given and set(path) & set("[]{}"):
        facts.unknown("an address that may stand for many")
        return
    # What the shell puts in place of `http://host/a?b=c` begins with all that stands before the wildcard.
    if (
        word.glob
        and not _LOOPBACK.fullmatch(word.text)
        and (not path.startswith("/") or globs.is_glob(word.text[: address.start("path")]))
    ):
        facts.unknown("an address that is only known when it runs")
        return
    host = address["host"].lower().strip("[]").removesuffix(".")
    judge_target(bundle, facts, "host", host)
    facts.targets += paths.web_targets(bundle, path)
