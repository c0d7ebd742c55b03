"""Which metrics and labels an expression names."""

import pytest

from serve_app.observe.promql import labels, metrics


@pytest.mark.parametrize(
    ("expression", "names", "used"),
    [
        ("up", {"up"}, set()),
        ('sum by (model, le) (rate(a_bucket{x="1", y=~"b|c"}[5m]))', {"a_bucket"}, {"model", "le", "x", "y"}),
        ("time() - min(a[3h:1m] offset 5m) > 1e3", {"a"}, set()),
        ("a and on (pod) b or absent(c) unless ignoring (x) d", {"a", "b", "c", "d"}, {"pod", "x"}),
        ('a{b="sum(c{d=\\"e\\"}) by (f)"}', {"a"}, {"b"}),
        ("job:a:rate5m > 0.5 and job:b:rate5m == bool 1", {"job:a:rate5m", "job:b:rate5m"}, set()),
        ("sum(a) by (pod) / count without (job) (b)", {"a", "b"}, {"pod", "job"}),
        ("1 - max(a) or vector(0)", {"a"}, set()),
    ],
    ids=["plain", "grouped", "ranges", "sets", "strings", "recorded", "after", "constants"],
)
def test_names_and_labels(expression: str, names: set[str], used: set[str]) -> None:
    assert metrics(expression) == names
    assert labels(expression) == used
