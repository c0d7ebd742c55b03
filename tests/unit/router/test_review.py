import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.signals.diffs import MAX_DIFF_CHARS, MAX_STEPS, Diff, _Parser, parse_diff
from router.signals.review import (
    ReviewLimits,
    ReviewScope,
    has_diff,
    is_generated,
    is_risky,
    is_test,
    measure,
    measure_said,
    measure_text,
    prose,
)
from tests.unit.router.asks import diff

LIMITS = ReviewLimits()


def test_files_hunks_and_lines():
    parsed = parse_diff(diff("a.py", 3, 2) + diff("b/c.py", 1, 0) + "@@ -9 +9,2 @@\n-x\n+y\n+z\n")
    assert [(f.path, f.added, f.removed, f.hunks) for f in parsed.files] == [("a.py", 3, 2, 1), ("b/c.py", 3, 1, 2)]
    assert (parsed.added, parsed.removed, parsed.hunks, parsed.broken) == (6, 3, 3, False)


def test_a_removed_line_that_looks_like_a_file_header_is_a_removed_line():
    text = "--- a/q.sql\n+++ b/q.sql\n@@ -1,2 +1,2 @@\n--- a comment\n+++ another\n context\n"
    parsed = parse_diff(text)
    assert [(f.path, f.added, f.removed) for f in parsed.files] == [("q.sql", 1, 1)]
    assert not parsed.broken


def test_plain_diffs_without_git_headers():
    text = (
        "--- a/x.py\t2024-01-01\n+++ b/x.py\t2024-01-02\n@@ -1 +1 @@\n-a\n+b\n"
        "--- a/y.py\n+++ b/y.py\n@@ -1 +1 @@\n-a\n+b\n"
    )
    assert [(f.path, f.changed) for f in parse_diff(text).files] == [("x.py", 2), ("y.py", 2)]


def test_new_deleted_renamed_and_binary_files():
    text = (
        "diff --git a/old.py b/old.py\ndeleted file mode 100644\n--- a/old.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "diff --git a/new.py b/new.py\nnew file mode 100644\n--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+x\n"
        "diff --git a/was.py b/now.py\nsimilarity index 100%\nrename from was.py\nrename to now.py\n"
        "diff --git a/logo.png b/logo.png\nBinary files a/logo.png and b/logo.png differ\n"
    )
    files = parse_diff(text).files
    assert [f.path for f in files] == ["old.py", "new.py", "now.py", "logo.png"]
    assert [f.deleted for f in files] == [True, False, False, False]
    assert files[3].binary


def test_empty_context_lines_and_missing_final_line_feeds():
    text = "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n\\ No newline at end of file\n"
    assert not parse_diff(text).broken


def test_a_mail_signature_after_the_last_hunk_is_no_change():
    assert not parse_diff(diff() + "-- \n2.43.0\n").broken


@pytest.mark.parametrize(
    "text",
    [
        "--- a/x\n+++ b/x\n@@ -1,9 +1,9 @@\n a\n-b\n+c\n",
        "--- a/x\n+++ b/x\n@@ -1,9 +1,9 @@\n a\n... (40 lines omitted)\n+c\n",
        "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n+c\n+d\n",
        "diff --cc x\n@@@ -1,2 -1,2 +1,3 @@@\n  a\n",
        "--- a/x\n+++ b/x\n@@ -a,b +c @@\n",
        f"{diff()}{' ' * MAX_DIFF_CHARS}",
    ],
)
def test_what_cannot_be_measured_is_large(text: str):
    parsed = parse_diff(text)
    assert parsed.broken
    assert measure(parsed, LIMITS).scope is ReviewScope.LARGE


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        (diff(added=399, removed=0), ReviewScope.SMALL),
        (diff(added=200, removed=200), ReviewScope.LARGE),
        ("".join(diff(f"src/f{n}.py") for n in range(9)), ReviewScope.SMALL),
        ("".join(diff(f"src/f{n}.py") for n in range(10)), ReviewScope.LARGE),
        (diff("src/auth/views.py", 29, 0), ReviewScope.SMALL),
        (diff("src/auth/views.py", 30, 0), ReviewScope.LARGE),
        (diff("package-lock.json", 5_000, 0), ReviewScope.SMALL),
    ],
)
def test_scope_follows_the_limits(text: str, scope: ReviewScope):
    assert measure(parse_diff(text), LIMITS).scope is scope


def test_the_limits_are_the_callers():
    assert measure(parse_diff(diff(added=5)), ReviewLimits(large_lines=4)).scope is ReviewScope.LARGE


def test_one_line_in_a_risky_path_is_high_risk():
    review = measure(parse_diff(diff("deploy/terraform/main.tf", 1, 0)), LIMITS)
    assert (review.high_risk, review.risky_paths, review.risky_lines) == (True, 1, 1)


def test_deleting_a_test_is_high_risk():
    name = "tests/test_x.py"
    text = f"diff --git a/{name} b/{name}\ndeleted file mode 100644\n--- a/{name}\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    assert measure(parse_diff(text), LIMITS).high_risk


def test_the_share_of_tests():
    review = measure(parse_diff(diff("src/a.py", 3, 0) + diff("tests/test_a.py", 1, 0)), LIMITS)
    assert review.test_share == 0.25


@pytest.mark.parametrize(
    "path",
    [
        "app/auth/login.py", "src/paymentService.ts", "db/migrations/0001_init.py", "schema.sql", "infra/main.tf",
        ".github/workflows/ci.yml", "Dockerfile", "charts/api/templates/rbac.yaml", "pkg/crypto/aes.go", "CODEOWNERS",
    ],
)  # fmt: skip
def test_risky_paths(path: str):
    assert is_risky(path)


@pytest.mark.parametrize(
    "path", ["src/author.py", "docs/auth.md", "tests/auth/test_login.py", "src/cart.py", "go.sum", "vendor/auth/x.go"]
)
def test_harmless_paths(path: str):
    assert not is_risky(path)


def test_tests_and_generated_files():
    assert is_test("src/cart.spec.ts")
    assert not is_test("src/latest.py")
    assert is_generated("web/dist/app.js")
    assert not is_generated("web/src/app.js")


@pytest.mark.parametrize(
    ("said", "scope"),
    [
        ("review: 12 files changed, 40 insertions(+), 2 deletions(-)", ReviewScope.LARGE),
        ("review: 2 files changed, 380 insertions(+), 30 deletions(-)", ReviewScope.LARGE),
        ("review: 2 files changed, 40 insertions(+)", ReviewScope.SMALL),
        ("please review this 1,200 line change", ReviewScope.LARGE),
        ("review this function", ReviewScope.SMALL),
    ],
)
def test_a_change_that_is_described_and_not_shown(said: str, scope: ReviewScope):
    assert measure_said(said, LIMITS).scope is scope


def test_prose_with_rules_and_lists_is_no_diff():
    assert not has_diff("Plan\n---\n- one\n+ two\n--- note")
    assert has_diff(f"Please look:\n```diff\n{diff()}```")


def test_prose_leaves_the_diff_out():
    assert "drop table" not in prose(f"look\n{diff()}+drop table x\n drop table y")


@given(st.text(alphabet="+-@ \\\nadif/0123456789,\tgtb", max_size=400))
def test_the_parser_reads_anything(text: str):
    parsed = parse_diff(f"@@ -1 +1 @@\n{text}")
    assert parsed.added >= 0
    assert parsed.hunks >= 1


def test_what_a_change_is_spread_over():
    text = diff("src/a.py", 30, 0) + diff("src/b.ts", 1, 0) + diff("web/c.py", 1, 0) + diff("go.sum", 900, 0)
    review = measure(parse_diff(text), LIMITS)
    assert (review.files, review.generated_files, review.directories, review.languages) == (3, 1, 2, 2)
    assert (review.changed_lines, review.untested) == (32, True)


@pytest.mark.parametrize(
    ("text", "untested", "mostly_removed"),
    [
        (diff("src/a.py", 19, 0), False, False),
        (diff("src/a.py", 20, 0), True, False),
        (diff("docs/a.md", 90, 0), False, False),
        (diff("src/a.py", 30, 0) + diff("tests/test_a.py", 1, 0), False, False),
        (diff("src/a.py", 25, 50), True, True),
        (diff("src/a.py", 26, 50), True, False),
        (diff("src/a.py", 0, 49), True, False),
    ],
)
def test_tests_and_removals(text: str, untested: bool, mostly_removed: bool):
    review = measure(parse_diff(text), LIMITS)
    assert (review.untested, review.mostly_removed) == (untested, mostly_removed)


class LineByLine(_Parser):
    """The same parser without taking whole hunks at once: only the header is taken."""

    def _take_hunks(self, start: int) -> int:
        whole, self._marks = self._marks, self._marks[: start + 1]
        end = super()._take_hunks(start)
        self._marks = whole
        return end


def line_by_line(text: str) -> Diff:
    state = LineByLine(text.split("\n"))
    complete = state.read()
    return Diff(files=tuple(state.files), broken=state.broken or not complete)


PIECES = [
    "-a", "+b", " c", "", "\\ No newline", "@@ -1,2 +1,3 @@", "@@ -1 +1 @@", "@@ -3,0 +4,2 @@", "--- a/x", "+++ b/y",
    "diff --git a/x b/y", "```", "prose", "-- ", "\r", "é",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_hunks_taken_at_once_are_those_read_line_by_line(lines: list[str]):
    text = "\n".join(lines)
    fast, slow = parse_diff(text), line_by_line(text)
    assert fast.broken == slow.broken
    if not slow.broken:
        assert fast == slow


def test_a_diff_of_more_headers_than_are_read_is_large():
    text = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n" + "@@ -1 +1 @@\n-a\n+b\n" * (MAX_STEPS + 1)
    assert parse_diff(text).broken
    assert measure_text(text, LIMITS).scope is ReviewScope.LARGE


FILLER = "".join(diff(f"src/part_{n}.py", 60, 10) for n in range(60))


@pytest.mark.parametrize(
    ("last", "high_risk", "untested"),
    [
        (diff("src/plain.py", 1, 1), False, True),
        (diff("src/auth/views.py", 1, 1), True, True),
        (diff("tests/test_plain.py", 1, 1), False, False),
        ("diff --git a/tests/test_x.py b/tests/test_x.py\ndeleted file mode 100644\nindex 1..0\n", True, True),
        (diff("vendor/auth/x.go", 1, 1), False, True),
    ],
    ids=["plain", "risky", "test", "deleted-test", "generated"],
)
def test_the_rest_of_a_long_diff_is_judged_by_its_paths(last: str, high_risk: bool, untested: bool):
    text = FILLER + last
    assert len(text) > 32_000
    skimmed, whole = measure_text(text, LIMITS), measure(parse_diff(text), LIMITS)
    assert (skimmed.scope, skimmed.high_risk, skimmed.untested) == (ReviewScope.LARGE, high_risk, untested)
    assert (skimmed.high_risk, skimmed.untested, skimmed.files) == (whole.high_risk, whole.untested, whole.files)
    assert (skimmed.mostly_removed, skimmed.risky_paths) == (whole.mostly_removed, whole.risky_paths)


def test_the_lines_of_the_rest_of_a_long_diff_are_counted():
    text = FILLER.replace("diff --git", "\ndiff --git")
    assert measure_text(text, LIMITS).changed_lines == measure(parse_diff(text), LIMITS).changed_lines == 60 * 70


def test_a_long_diff_that_is_small_in_its_first_part_is_measured_to_its_end():
    text = diff("package-lock.json", 4_000, 0) + diff("src/auth/views.py", 30, 0)
    assert len(text) > 32_000
    assert measure_text(text, LIMITS) == measure(parse_diff(text), LIMITS)
