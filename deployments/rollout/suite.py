"""The evaluation suite: a file with one case a line, and the part of it that a rollout asks.

A part is drawn by hash, of every family in proportion: it is the same after a restart, and nobody picks it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from deployments.errors import InvalidRequest
from deployments.rollout.cases import Case
from deployments.rollout.checks import decides, passes
from deployments.rollouts import MOST_CASES

_ROOT: Final = Path(__file__).resolve().parents[2]
_MOST_BYTES: Final = 16 * 2**20
_DOMAIN: Final = b"gatehouse eval v1"


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases, each with a name of its own. `digest`: SHA-256 of the file in hex."""

    cases: tuple[Case, ...]
    digest: str

    def draw(self, key: str, count: int) -> tuple[Case, ...]:
        """So many cases, all of them if there are no more: of each family its part, in the order of the file.

        The same for the same `key`, whatever else happens; another key draws others.
        """
        families: dict[str, list[Case]] = {}
        for each in self.cases:
            families.setdefault(each.family, []).append(each)
        drawn = set[str]()
        for family, most in _parts({name: len(cases) for name, cases in families.items()}, count).items():
            ordered = sorted(families[family], key=lambda case: _place(key, case.name))
            drawn |= {each.name for each in ordered[:most]}
        return tuple(each for each in self.cases if each.name in drawn)


def read_suite(name: str) -> Suite:
    """The suite in a file, also relative to the installation. `InvalidRequest` says file, line and what is wrong."""
    given = Path(name)
    path = given if given.is_file() else _ROOT / given
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"The evaluation suite {name} cannot be read: {error.strerror}.", "suite") from None
    if len(data) > _MOST_BYTES:
        raise InvalidRequest(f"The evaluation suite {name} has more than {_MOST_BYTES} bytes.", "suite")
    cases: dict[str, Case] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            case = _case(line)
            if case.name in cases:
                raise ValueError(f"there is another case '{case.name}'")
        except ValueError as error:
            raise InvalidRequest(f"{name}:{number}: {error}.", "suite") from None
        cases[case.name] = case
    if not cases or len(cases) > MOST_CASES:
        raise InvalidRequest(f"The evaluation suite {name} must have 1 to {MOST_CASES} cases.", "suite")
    return Suite(tuple(cases.values()), hashlib.sha256(data).hexdigest())


def _case(line: bytes) -> Case:
    """One case; `ValueError` says what is wrong with it, and nothing of what it says."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("the line is not JSON") from None
    try:
        case = Case.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
    schema = case.checks.json_schema
    if schema is not None and not decides(schema, case.good.text):
        raise ValueError("checks.json_schema uses a keyword that is not supported")
    if not passes(case, case.good):
        raise ValueError("its example does not pass its checks")
    return case


def _parts(sizes: dict[str, int], count: int) -> dict[str, int]:
    """How many of each family: one at least where they suffice, the rest in proportion, largest remainders first."""
    if count >= sum(sizes.values()):
        return sizes
    least = 1 if count >= len(sizes) else 0
    spare = {name: size - least for name, size in sizes.items()}
    rest, total = count - least * len(sizes), sum(spare.values())
    parts = {name: least + rest * each // total for name, each in spare.items()}
    left = count - sum(parts.values())
    for name in sorted(spare, key=lambda name: (-(rest * spare[name] % total), name))[:left]:
        parts[name] += 1
    return parts


def _place(key: str, name: str) -> bytes:
    digest = hashlib.sha256(_DOMAIN)
    for part in (key, name):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)  # no two pairs are the same bytes
    return digest.digest()
