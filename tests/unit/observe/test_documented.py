"""Every metric that docs/observability.md names is exported under that name."""

import re

from serve_app.config import ROOT
from serve_app.observe.inventory import inventory

_NAME = re.compile(r"(?:ray_)?(?:gatehouse|gen_ai|vllm)_[a-z0-9_]+[a-z0-9]")


def documented() -> set[str]:
    text = (ROOT / "docs" / "observability.md").read_text()
    lines, foreign = list[str](), False
    for line in text.splitlines():
        foreign = line.startswith("| looked for |") or (foreign and line.startswith("|"))
        lines.append(line.split("|")[2] if foreign else line)  # the first column has the names of others
    return {name for line in lines for code in re.findall(r"`([^`]+)`", line) for name in _NAME.findall(code)}


def test_every_metric_that_is_named_is_exported() -> None:
    exported = inventory()
    known = exported.keys() | {family.name for family in exported.values()}
    found = documented()
    assert {"gatehouse_overhead_seconds", "ray_gatehouse_abort_seconds", "gen_ai_cost_total"} <= found
    families = {name for name in found if any(each.startswith(f"{name}_") for each in known)}  # `gatehouse_audit_*`
    assert found - known - families == set()
