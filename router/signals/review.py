"""How large and how risky is the change under review: what its diff, or what is said of it, adds up to."""

import re
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final

from router.lexicon import word_set
from router.signals.diffs import MAX_DIFF_CHARS, Diff, parse_diff

_CODE_LINES: Final = 20  # fewer lines need no test of their own
_REMOVED_LINES: Final = 50

_BEGINS_DIFF: Final = re.compile(r"^(?:@@@? -\d|diff --(?:git|cc|combined) )", re.MULTILINE)
_DIFF_MARKS: Final = ("@@ -", "@@@ -", "diff --git ", "diff --cc ", "diff --combined ")
_STAT: Final = re.compile(
    r"(\d[\d,]{0,8}) files? changed(?:, (\d[\d,]{0,8}) insertions?\(\+\))?(?:, (\d[\d,]{0,8}) deletions?\(-\))?"
)
_FILES_SAID: Final = re.compile(r"\b(\d[\d,]{0,8}) (?:changed |modified |touched )?files\b")
_LINES_SAID: Final = re.compile(r"\b(\d[\d,]{0,8})[ -](?:changed |modified )?(?:lines?|loc)\b")
_FIRST_CHARS: Final = 16_000
_NAMED: Final = re.compile(r'\ndiff --git [^\n]* "?b/([^\n"\r]+)"?\r?(?:\n(deleted))?')
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
        text.startswith(_DIFF_MARKS) or ("@" in text and ("\n@@ -" in text or "\n@@@ -" in text)) or "\ndiff --" in text
    )
    return marked and _BEGINS_DIFF.search(text) is not None


def prose(lowered: str) -> str:
    """The lines of `lowered` that are no part of a diff: a `drop table` under review is not an order to drop one."""
    return "\n".join(line for line in lowered.split("\n") if not line.startswith(("+", "-", "@", " ", "\\", "diff ")))


def is_generated(path: str) -> bool:
    """True for lock files, vendored and generated code: nobody reviews them line by line."""
    return _sort_of(path) is _Sort.GENERATED


def is_test(path: str) -> bool:
    """True for tests and their data."""
    return not _TEST_PARTS.isdisjoint(_parts(path))


def is_risky(path: str) -> bool:
    """True where a small mistake is expensive: auth, crypto, payment, migration, IaC, CI, SQL, permissions."""
    return _sort_of(path) is _Sort.RISKY


class _Sort(Enum):
    """What a file is for whoever reviews it; the first that fits."""

    GENERATED = "generated"
    TEST = "test"
    DOCUMENT = "document"
    RISKY = "risky"
    CODE = "code"


def _sort_of(path: str) -> _Sort:
    lowered = path.lower()
    folders = lowered.split("/")
    name = folders.pop()
    if name in _GENERATED_NAMES or lowered.endswith(_GENERATED_SUFFIXES) or not _GENERATED_FOLDERS.isdisjoint(folders):
        return _GENERATED
    parts = _parts(path)
    if not _TEST_PARTS.isdisjoint(parts):
        return _TEST
    if lowered.endswith(_DOCUMENT_SUFFIXES):
        return _DOCUMENT
    risky = (
        not _RISKY_PARTS.isdisjoint(parts)
        or lowered.endswith(_RISKY_SUFFIXES)
        or name in _RISKY_NAMES
        or name.startswith("dockerfile")
    )
    return _RISKY if risky else _CODE


# A member is looked up through a function, and these are asked for once per file.
_GENERATED, _TEST, _DOCUMENT, _RISKY, _CODE = _Sort


def _ending(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def _parts(path: str) -> frozenset[str]:
    return frozenset(map(str.lower, _PART.findall(path)))


def measure_text(text: str, limits: ReviewLimits) -> Review:
    """Scope and risk of the diffs in `text`.

    Where the first part of a long diff is large already, the rest is skimmed: its paths are judged like all others, and
    lines that begin with `+` and `-` are counted. The other counts are then those of the first part.
    """
    cut = text.rfind("\ndiff --git ", 0, _FIRST_CHARS)
    if cut >= 0 and 2 * _FIRST_CHARS < len(text) <= MAX_DIFF_CHARS:
        first = measure(parse_diff(text[: cut + 1]), limits)
        if first.scope is ReviewScope.LARGE and not first.broken:
            return _with_rest(first, text[cut:])
    return measure(parse_diff(text), limits)


def _with_rest(first: Review, rest: str) -> Review:
    """A large review with the files of `rest`, which begins with a line feed and `diff --git`."""
    named = [(_sort_of(path), bool(deleted)) for path, deleted in _NAMED.findall(rest)]
    sorts = [sort for sort, _ in named]
    added, removed = rest.count("\n+") - len(named), rest.count("\n-") - len(named)  # each names its file once
    added, removed = max(added, 0), max(removed, 0)
    all_removed = first.removed_lines + removed
    all_added = first.changed_lines - first.removed_lines + added
    # A test that is deleted tests nothing any more.
    tests = first.test_share > 0.0 or (_TEST, False) in named
    code = first.untested or _CODE in sorts or _RISKY in sorts
    return replace(
        first,
        high_risk=first.high_risk or _RISKY in sorts or (_TEST, True) in named,
        files=first.files + len(named) - sorts.count(_GENERATED),
        changed_lines=all_added + all_removed,
        deleted_files=first.deleted_files + sum(deleted for _, deleted in named),
        removed_lines=all_removed,
        risky_paths=first.risky_paths + sorts.count(_RISKY),
        generated_files=first.generated_files + sorts.count(_GENERATED),
        untested=code and not tests,
        mostly_removed=all_removed >= _REMOVED_LINES and all_removed >= 2 * all_added,
    )


def measure(diff: Diff, limits: ReviewLimits) -> Review:
    """Scope and risk of a diff. A broken diff is large: what cannot be measured is not small."""
    sorts = [_sort_of(file.path) for file in diff.files]
    files = [file for file, sort in zip(diff.files, sorts, strict=True) if sort is not _GENERATED]
    lines = dict.fromkeys(_Sort, 0)
    deleted_tests = False
    for file, sort in zip(diff.files, sorts, strict=True):
        lines[sort] += file.added + file.removed
        deleted_tests = deleted_tests or (file.deleted and sort is _TEST)
    changed = sum(lines.values()) - lines[_GENERATED]
    tests, risky_lines = lines[_TEST], lines[_RISKY]
    risky = sorts.count(_RISKY)
    added, removed = sum(file.added for file in files), sum(file.removed for file in files)
    large = (
        diff.broken
        or changed >= limits.large_lines
        or len(files) >= limits.large_files
        or (risky > 0 and risky_lines >= limits.risky_lines)
    )
    return Review(
        scope=ReviewScope.LARGE if large else ReviewScope.SMALL,
        high_risk=risky > 0 or deleted_tests,
        files=len(files),
        changed_lines=changed,
        hunks=diff.hunks,
        deleted_files=sum(file.deleted for file in files),
        removed_lines=removed,
        test_share=tests / changed if changed else 0.0,
        risky_paths=risky,
        risky_lines=risky_lines,
        broken=diff.broken,
        directories=len({file.path.rpartition("/")[0] for file in files}),
        languages=len({_ending(file.path) for file in files} - {""}),
        generated_files=len(diff.files) - len(files),
        untested=risky_lines + lines[_CODE] >= _CODE_LINES and tests == 0,
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
