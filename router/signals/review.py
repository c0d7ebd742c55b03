"""How large and how risky is the change under review: a parser for unified diffs, and what it adds up to."""

import bisect
import itertools
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from router.lexicon import word_set

MAX_DIFF_CHARS: Final = 200_000  # beyond, the diff counts as truncated, hence as large
_CODE_LINES: Final = 20  # fewer lines need no test of their own
_REMOVED_LINES: Final = 50

_HUNK: Final = re.compile(r"@@ -\d{1,9}(?:,(\d{1,9}))? \+\d{1,9}(?:,(\d{1,9}))? @@")
_BEGINS_DIFF: Final = re.compile(r"^(?:@@@? -\d|diff --(?:git|cc|combined) )", re.MULTILINE)
_DIFF_MARKS: Final = ("@@ -", "@@@ -", "diff --git ", "diff --cc ", "diff --combined ")
_NOT_OF_HUNK: Final = re.compile(r"[^-+ \\]")
_GIT_HEADER: Final = re.compile(r'diff --git (?:"?a/(.*?)"?) (?:"?b/(.*?)"?)$')
_STAT: Final = re.compile(
    r"(\d[\d,]{0,8}) files? changed(?:, (\d[\d,]{0,8}) insertions?\(\+\))?(?:, (\d[\d,]{0,8}) deletions?\(-\))?"
)
_FILES_SAID: Final = re.compile(r"\b(\d[\d,]{0,8}) (?:changed |modified |touched )?files\b")
_LINES_SAID: Final = re.compile(r"\b(\d[\d,]{0,8})[ -](?:changed |modified )?(?:lines?|loc)\b")
_PART: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")

_GENERATED_NAMES: Final = word_set(
    "package-lock.json yarn.lock pnpm-lock.yaml poetry.lock uv.lock cargo.lock go.sum gemfile.lock composer.lock"
)
_GENERATED_SUFFIXES: Final = (".min.js", ".min.css", ".map", ".pb.go", "_pb2.py", "_pb2.pyi", ".snap", ".lock", ".svg")
_GENERATED_FOLDERS: Final = frozenset({"vendor", "node_modules", "dist", "third_party", "generated", "__snapshots__"})
_TEST_PARTS: Final = frozenset({"test", "tests", "testing", "spec", "specs", "testdata", "fixtures", "e2e", "conftest"})
_DOCUMENT_SUFFIXES: Final = (".md", ".rst", ".txt", ".adoc")
_RISKY_SUFFIXES: Final = (".sql", ".tf", ".tfvars", ".pem", ".key", ".rego")
_RISKY_NAMES: Final = frozenset({"dockerfile", "jenkinsfile", ".gitlab-ci.yml", "codeowners", "sudoers", "chart.yaml"})
_RISKY_PARTS: Final = word_set(
    "auth authn authz authentication authenticate authenticator authorization authorize authorizer authorisation "
    "oauth oauth2 oidc saml sso login logins session sessions password passwords passwd credential credentials "
    "secret secrets token tokens jwt crypto cryptography cipher encryption encrypt decrypt signing tls ssl cert "
    "certs certificate certificates payment payments billing invoice invoices checkout ledger migration "
    "migrations migrate alembic flyway terraform helm k8s kubernetes kustomize kustomization ansible pulumi "
    "cloudformation workflows circleci permission permissions rbac acl acls iam sudo firewall security sandbox"
)


class ReviewScope(StrEnum):
    """Size of the change under review; NONE when there is nothing to measure."""

    NONE = "none"
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, slots=True)
class ReviewLimits:
    """From where on a review is large; the numbers are the policy's."""

    large_lines: int = 400
    large_files: int = 10
    risky_lines: int = 30


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of a diff. Lines are counted inside hunks only."""

    path: str
    added: int
    removed: int
    hunks: int
    deleted: bool
    binary: bool

    @property
    def changed(self) -> int:
        """Added plus removed lines."""
        return self.added + self.removed


@dataclass(frozen=True, slots=True)
class Diff:
    """A parsed diff. `broken` says that it was truncated or does not follow the format."""

    files: tuple[FileChange, ...]
    broken: bool

    @property
    def added(self) -> int:
        """Added lines of all files."""
        return sum(file.added for file in self.files)

    @property
    def removed(self) -> int:
        """Removed lines of all files."""
        return sum(file.removed for file in self.files)

    @property
    def hunks(self) -> int:
        """Hunks of all files."""
        return sum(file.hunks for file in self.files)


@dataclass(frozen=True, slots=True)
class Review:
    """What a review is about.

    Generated files count neither as files nor as lines; tests and documents are not risky. `directories` and
    `languages` (by file name ending) count what the change is spread over, `test_share` in [0, 1] is the share of the
    changed lines that are tests, `untested`: code changes by more than a few lines and no test does.
    `mostly_removed`: at least twice as many lines go as come, and not a few.
    """

    scope: ReviewScope
    high_risk: bool
    files: int = 0
    changed_lines: int = 0
    hunks: int = 0
    deleted_files: int = 0
    removed_lines: int = 0
    test_share: float = 0.0
    risky_paths: int = 0
    risky_lines: int = 0
    broken: bool = False
    directories: int = 0
    languages: int = 0
    generated_files: int = 0
    untested: bool = False
    mostly_removed: bool = False


NO_REVIEW: Final = Review(scope=ReviewScope.NONE, high_risk=False)


def has_diff(text: str) -> bool:
    """True when some line of `text` begins a unified diff; a `---` alone is a rule in prose, not a diff."""
    # The plain searches decide nearly always, and cost a tenth of the pattern; a single sign is found fastest.
    marked = (
        text.startswith(_DIFF_MARKS)
        or ("@" in text and ("\n@@ -" in text or "\n@@@ -" in text))
        or "\ndiff --git " in text
        or "\ndiff --c" in text
    )
    return marked and _BEGINS_DIFF.search(text) is not None


def prose(lowered: str) -> str:
    """The lines of `lowered` that are no part of a diff: a `drop table` under review is not an order to drop one."""
    return "\n".join(line for line in lowered.split("\n") if not line.startswith(("+", "-", "@", " ", "\\", "diff ")))


def parse_diff(text: str) -> Diff:
    """The files of every unified diff in `text`; prose and code fences around them are skipped.

    The counts of a hunk's header say which lines belong to it, so a removed line `-- x` (shown as `--- x`) is no file
    header. A hunk that ends early, or goes on for longer than it said, makes the diff `broken`, as do combined diffs.
    """
    state = _Parser()
    lines = text[:MAX_DIFF_CHARS].split("\n")
    marks = _Marks("".join([line[:1] or " " for line in lines]))
    position = 0
    while position < len(lines):
        state.feed(lines[position])
        position += 1
        position += state.take_hunk(marks, position)
    state.end_file()
    return Diff(files=tuple(state.files), broken=state.broken or len(text) > MAX_DIFF_CHARS)


class _Marks:
    """The first sign of every line of a text, to find the end of a hunk without reading its lines one by one.

    An empty line counts as one of context: editors strip its blank.
    """

    _OLD: Final = bytes(sign in b"- " for sign in range(256))
    _NEW: Final = bytes(sign in b"+ " for sign in range(256))

    def __init__(self, text: str) -> None:
        self.text = text
        self._sums: tuple[list[int], list[int]] | None = None

    def end_of_hunk_lines(self, start: int, old_left: int, new_left: int) -> int:
        """Where a hunk that begins at `start` and promises so many lines ends, or the first line that is none of it."""
        other = _NOT_OF_HUNK.search(self.text, start)
        end = len(self.text) if other is None else other.start()
        old, new = self.old_lines(start, end), self.new_lines(start, end)
        if old < old_left or new < new_left or (old == old_left and new == new_left):
            return end  # cut off, or exactly what was promised
        before_old, before_new = self._up_to()
        old_end = bisect.bisect_left(before_old, before_old[start] + old_left, lo=start)
        new_end = bisect.bisect_left(before_new, before_new[start] + new_left, lo=start)
        return max(old_end, new_end)

    def old_lines(self, start: int, end: int) -> int:
        """Lines of the old file from `start` to before `end`."""
        return self.text.count("-", start, end) + self.text.count(" ", start, end)

    def new_lines(self, start: int, end: int) -> int:
        """Lines of the new file from `start` to before `end`."""
        return self.text.count("+", start, end) + self.text.count(" ", start, end)

    def _up_to(self) -> tuple[list[int], list[int]]:
        """How many lines of the old and of the new file there are before each line; reckoned once, if at all."""
        if self._sums is None:
            signs = self.text.encode("latin-1", "replace")
            self._sums = (
                [0, *itertools.accumulate(signs.translate(self._OLD))],
                [0, *itertools.accumulate(signs.translate(self._NEW))],
            )
        return self._sums


class _Parser:
    """One pass over the lines of a diff."""

    def __init__(self) -> None:
        self.files: list[FileChange] = []
        self.broken = False
        self._path: str | None = None
        self._old_path = ""
        self._added = self._removed = self._hunks = 0
        self._deleted = self._binary = False
        self._old_left = self._new_left = 0
        self._just_ended = False
        self._hunk_begins = False

    def take_hunk(self, marks: "_Marks", start: int) -> int:
        """Take the lines of a hunk at once, if one has just begun; how many there were.

        Takes what the header promised, or, where the diff is cut off, what there is. What does not add up is left to be
        read line by line.
        """
        if not self._hunk_begins:
            return 0
        self._hunk_begins = False
        end = marks.end_of_hunk_lines(start, self._old_left, self._new_left)
        old, new = marks.old_lines(start, end), marks.new_lines(start, end)
        if old > self._old_left or new > self._new_left:
            return 0
        self._added += marks.text.count("+", start, end)
        self._removed += marks.text.count("-", start, end)
        self._old_left -= old
        self._new_left -= new
        self._just_ended = self._old_left == 0 and self._new_left == 0
        return end - start

    def feed(self, line: str) -> None:
        """Take one line without its line feed."""
        if self._old_left > 0 or self._new_left > 0:
            if self._in_hunk(line):
                return
            self.broken = True  # cut off: fewer lines than the header promised
            self._old_left = self._new_left = 0
        self._between_hunks(line)

    def _in_hunk(self, line: str) -> bool:
        mark = line[:1]
        if mark == "+" and self._new_left > 0:
            self._new_left -= 1
            self._added += 1
        elif mark == "-" and self._old_left > 0:
            self._old_left -= 1
            self._removed += 1
        elif mark in {" ", "", "\r"} and self._old_left > 0 and self._new_left > 0:
            self._old_left -= 1  # editors strip the blank of an empty context line
            self._new_left -= 1
        elif mark != "\\":
            return False
        self._just_ended = self._old_left == 0 and self._new_left == 0
        return True

    def _between_hunks(self, line: str) -> None:
        just_ended, self._just_ended = self._just_ended, False
        if line.startswith("@@ "):
            self._begin_hunk(line)
        elif line.startswith("diff --git "):
            self._begin_git(line.rstrip("\r"))
        elif line.startswith(("@@@", "diff --cc ", "diff --combined ")):
            self.broken = True
        elif line.startswith("--- "):
            if just_ended:
                self.end_file()  # plain diffs have no `diff --git` line between two files
            self._old_path = _path(line[4:])
        elif line.startswith("+++ "):
            self._begin_new(_path(line[4:]))
        elif line.startswith("deleted file mode"):
            self._deleted = True
        elif line.startswith(("Binary files ", "GIT binary patch")):
            self._binary = True
        elif line.startswith("rename to "):
            self._path = line[10:].rstrip("\r")
        elif line.startswith("\\"):
            self._just_ended = just_ended
        elif just_ended and line[:1] in {"+", "-"} and line.rstrip() != "--":
            self.broken = True  # goes on for longer than the header promised ("-- " is a mail signature)

    def _begin_git(self, line: str) -> None:
        self.end_file()
        names = _GIT_HEADER.match(line)
        self._path = (names[2] if names else "") or "unknown"

    def _begin_new(self, new_path: str) -> None:
        if new_path == "/dev/null":
            self._deleted = True
            new_path = self._old_path
        if self._path is None or (self._hunks and self._path != new_path):
            old_path = self._old_path
            deleted = self._deleted
            self.end_file()
            self._old_path, self._deleted = old_path, deleted
        self._path = new_path

    def _begin_hunk(self, line: str) -> None:
        header = _HUNK.match(line)
        if header is None:
            self.broken = True
            return
        if self._path is None:
            self._path = self._old_path or "unknown"
        self._hunks += 1
        self._hunk_begins = True
        self._old_left = 1 if header[1] is None else int(header[1])
        self._new_left = 1 if header[2] is None else int(header[2])

    def end_file(self) -> None:
        """Close the file at hand; also called once after the last line."""
        if self._old_left > 0 or self._new_left > 0:
            self.broken = True
            self._old_left = self._new_left = 0
        if self._path is not None:
            self.files.append(
                FileChange(self._path, self._added, self._removed, self._hunks, self._deleted, self._binary)
            )
        self._path = None
        self._added = self._removed = self._hunks = 0
        self._deleted = self._binary = False


def _path(field: str) -> str:
    name = field.split("\t", 1)[0].strip().strip('"')
    return name[2:] if name.startswith(("a/", "b/")) else name


def is_generated(path: str) -> bool:
    """True for lock files, vendored and generated code: nobody reviews them line by line."""
    lowered = path.lower()
    *folders, name = lowered.split("/")
    return (
        name in _GENERATED_NAMES or lowered.endswith(_GENERATED_SUFFIXES) or not _GENERATED_FOLDERS.isdisjoint(folders)
    )


def is_test(path: str) -> bool:
    """True for tests and their data."""
    return not _TEST_PARTS.isdisjoint(_parts(path))


def is_risky(path: str) -> bool:
    """True where a small mistake is expensive: auth, crypto, payment, migration, IaC, CI, SQL, permissions."""
    lowered = path.lower()
    if is_test(path) or is_generated(path) or _is_document(path):
        return False
    name = lowered.rsplit("/", 1)[-1]
    return (
        lowered.endswith(_RISKY_SUFFIXES)
        or name in _RISKY_NAMES
        or name.startswith("dockerfile")
        or not _RISKY_PARTS.isdisjoint(_parts(path))
    )


def _is_document(path: str) -> bool:
    return path.lower().endswith(_DOCUMENT_SUFFIXES)


def _ending(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def _parts(path: str) -> frozenset[str]:
    return frozenset(part.lower() for part in _PART.findall(path))


def measure(diff: Diff, limits: ReviewLimits) -> Review:
    """Scope and risk of a diff. A broken diff is large: what cannot be measured is not small."""
    files = [file for file in diff.files if not is_generated(file.path)]
    changed = sum(file.changed for file in files)
    tests = sum(file.changed for file in files if is_test(file.path))
    code = sum(file.changed for file in files if not is_test(file.path) and not _is_document(file.path))
    added, removed = sum(file.added for file in files), sum(file.removed for file in files)
    risky = [file for file in files if is_risky(file.path)]
    risky_lines = sum(file.changed for file in risky)
    large = (
        diff.broken
        or changed >= limits.large_lines
        or len(files) >= limits.large_files
        or (bool(risky) and risky_lines >= limits.risky_lines)
    )
    return Review(
        scope=ReviewScope.LARGE if large else ReviewScope.SMALL,
        high_risk=bool(risky) or any(file.deleted and is_test(file.path) for file in files),
        files=len(files),
        changed_lines=changed,
        hunks=diff.hunks,
        deleted_files=sum(file.deleted for file in files),
        removed_lines=removed,
        test_share=tests / changed if changed else 0.0,
        risky_paths=len(risky),
        risky_lines=risky_lines,
        broken=diff.broken,
        directories=len({file.path.rpartition("/")[0] for file in files}),
        languages=len({_ending(file.path) for file in files} - {""}),
        generated_files=len(diff.files) - len(files),
        untested=code >= _CODE_LINES and tests == 0,
        mostly_removed=removed >= _REMOVED_LINES and removed >= 2 * added,
    )


def measure_said(lowered: str, limits: ReviewLimits) -> Review:
    """Scope of a change that is described but not shown: `12 files changed, 340 insertions(+)`, "a 900-line change"."""
    files = lines = 0
    if stat := _STAT.search(lowered):
        files = _number(stat[1])
        lines = _number(stat[2]) + _number(stat[3])
    if said := _FILES_SAID.search(lowered):
        files = max(files, _number(said[1]))
    if said := _LINES_SAID.search(lowered):
        lines = max(lines, _number(said[1]))
    large = files >= limits.large_files or lines >= limits.large_lines
    return Review(
        scope=ReviewScope.LARGE if large else ReviewScope.SMALL, high_risk=False, files=files, changed_lines=lines
    )


def _number(digits: str | None) -> int:
    return int(digits.replace(",", "") or 0) if digits else 0
