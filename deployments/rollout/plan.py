"""Plans and revisions: what an artefact's digest is over, and what a plan must be like. Pure."""

import json
import re
from collections.abc import Sequence
from typing import Final, cast

from deployments.errors import InvalidRequest
from deployments.ports import JsonValue
from deployments.rollouts import MOST_CASES, Artefact, Bound, Plan, Rules, revision_of_files

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_ROLLOUT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")  # a part of a URL
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_MOST_FILES: Final = 10_000
_MOST_SETTINGS_CHARS: Final = 64 * 1024


def revision_of(artefact: Artefact) -> str:
    """The revision, SHA-256 in hex: over kind, target, settings and every file's path, size and digest.

    `InvalidRequest` for an artefact that has no meaning. Where the files lie does not matter, nor does their order.
    """
    check_artefact(artefact)
    return revision_of_files(artefact.kind, artefact.target, artefact.files, settings_of(artefact))


def settings_of(artefact: Artefact) -> dict[str, JsonValue]:
    """The settings as an object, or `InvalidRequest`."""
    if len(artefact.settings) > _MOST_SETTINGS_CHARS:
        raise InvalidRequest("The settings are too long.", "settings")
    try:
        found: object = json.loads(artefact.settings, parse_constant=_no_number)
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()  # not true of 1e999, nor of half a character
    except (ValueError, RecursionError):
        raise InvalidRequest("The settings must be a JSON object.", "settings") from None
    if not isinstance(found, dict):
        raise InvalidRequest("The settings must be a JSON object.", "settings")
    return cast("dict[str, JsonValue]", found)


def check_artefact(artefact: Artefact) -> None:
    """Raise `InvalidRequest` unless the artefact names each file once, below its path, and has some content."""
    if _ID.fullmatch(artefact.target) is None:
        raise InvalidRequest("'target' must be 1 to 128 letters, digits and '._:/-'.", "target")
    if artefact.change_id and _ID.fullmatch(artefact.change_id) is None:
        raise InvalidRequest("'change_id' must be 1 to 128 letters, digits and '._:/-'.", "change_id")
    if len(artefact.files) > _MOST_FILES:
        raise InvalidRequest(f"An artefact has at most {_MOST_FILES} files.", "files")
    paths = [each.path for each in artefact.files]
    if len(set(paths)) != len(paths):
        raise InvalidRequest("A file is named twice.", "files")
    for each in artefact.files:
        parts = each.path.split("/")
        if any(part in {"", ".", ".."} for part in parts) or "\\" in each.path or "\0" in each.path:
            raise InvalidRequest("A file's path must lead below the artefact's.", "files")
        if each.path != each.path.encode(errors="ignore").decode():
            raise InvalidRequest("The name of every file must be UTF-8.", "files")
        if each.size < 0 or _HEX.fullmatch(each.sha256) is None:
            raise InvalidRequest("A file has a size and a SHA-256 of 64 hex digits.", "files")
    if bool(artefact.files) != bool(artefact.path):
        raise InvalidRequest("An artefact has a path when it has files, and only then.", "path")
    if not artefact.files and not settings_of(artefact):
        raise InvalidRequest("An artefact has files or settings.", "files")


def is_rollout_id(text: str) -> bool:
    """True for what may be the id of a rollout; nothing else is looked for."""
    return _ROLLOUT.fullmatch(text) is not None


def check_plan(plan: Plan) -> None:
    """Raise `InvalidRequest` unless a plan can be carried out."""
    if not is_rollout_id(plan.rollout_id):
        raise InvalidRequest("'rollout_id' must be 1 to 128 letters, digits and '._:-'.", "rollout_id")
    for name, value in (("change_id", plan.change_id), ("target", plan.target)):
        if _ID.fullmatch(value) is None:
            raise InvalidRequest(f"'{name}' must be 1 to 128 letters, digits and '._:/-'.", name)
    if plan.revision == plan.previous_revision:
        raise InvalidRequest("The revision is the one that is there.", "revision")
    shares = plan.shares
    grows = all(one < other for one, other in zip(shares, shares[1:], strict=False))
    if not shares or shares[-1] != 100 or shares[0] < 1 or not grows:
        raise InvalidRequest("The shares must grow, from 1 at least to 100.", "shares")
    if len(shares) == 1 and not plan.shadow:
        # With nothing to compare with, no revision is ever shown to be worse.
        raise InvalidRequest(
            "A share below 100, or a shadow, must come first: it shows how the one before does.", "shares"
        )
    if plan.eval_cases is not None and not 1 <= plan.eval_cases <= MOST_CASES:
        raise InvalidRequest(f"An evaluation has 1 to {MOST_CASES} cases.", "eval_cases")
    _check_rules(plan.rules)


def _check_rules(rules: Rules) -> None:
    times = (rules.ttft_ms, rules.e2e_ms, rules.deadline_s, rules.warm_s)
    if min(times) < 1 or rules.min_s < 0 or rules.window_s < 0 or rules.deadline_s < rules.min_s:
        raise InvalidRequest("Times are positive, and a stage's deadline is not before its shortest stay.", "rules")
    if not 0.0 < rules.false_alarm <= 0.1 or not 1.0 <= rules.design_effect <= 100.0 or not 0.0 <= rules.drift < 0.5:
        raise InvalidRequest(
            "'false_alarm' is above 0 and at most 0.1, 'design_effect' from 1 to 100, 'drift' from 0 to below 0.5.",
            "rules",
        )
    _check_bounds(rules.bounds)


def _check_bounds(bounds: Sequence[Bound]) -> None:
    metrics = [each.metric for each in bounds]
    if len(set(metrics)) != len(metrics) or not any(each.required for each in bounds):
        raise InvalidRequest("Each metric has one bound at most, and one bound at least is required.", "bounds")
    for each in bounds:
        if not 0.0 <= each.slack < each.tolerance < 1.0 or each.min_count < 1:
            raise InvalidRequest("A bound has 0 <= slack < tolerance < 1 and a count of 1 at least.", "bounds")


def _no_number(text: str) -> None:
    raise ValueError(text)
