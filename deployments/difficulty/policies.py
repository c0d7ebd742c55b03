"""The policy in force, and its file: a change is checked as a whole before it takes over, or nothing changes."""

import logging
from collections.abc import Mapping
from pathlib import Path

import yaml

from router.policy import Policy, PolicyError, parse_policy
from router.probes import check
from router.tenants import TenantRouting, with_tenants

_log = logging.getLogger("gatehouse.router")


class PolicySource:
    """One policy at a time. A request takes `current` once and keeps it to its end."""

    def __init__(
        self,
        document: Mapping[str, object],
        path: Path | None = None,
        tenants: Mapping[str, TenantRouting] | None = None,
    ) -> None:
        """`document` is in force from the start, or `PolicyError`; `path` is where a new one would appear.

        `tenants` is what the settings change of it, and of every newer one, for single tenants.

        Probes lie beside it, `NAME.probes.yaml` for `NAME.yaml`: a policy that fails one does not take over.
        """
        self._tenants = tenants or {}
        self.current = self._parse(document)
        self.refused: str | None = None
        """Why the newest file is not in force; None when it is."""
        self._path = path
        self._probes = None if path is None else path.with_name(f"{path.stem}.probes{path.suffix}")
        self._seen = stamp(path), stamp(self._probes)
        self._check(self.current)

    def look(self) -> bool:
        """Take a changed file over; True when another policy is in force now. Never raises for what it finds."""
        found = stamp(self._path), stamp(self._probes)
        if self._path is None or found[0] is None or found == self._seen:
            return False  # a file that is gone changes nothing: the last good policy stays
        self._seen = found
        try:
            policy = self._parse(_read(self._path))
            self._check(policy)
        except (PolicyError, OSError) as error:
            self.refused = str(error)
            _log.error("the new routing policy is refused, %s stays: %s", self.current.digest[:12], error)
            return False
        self.refused = None
        changed = policy.digest != self.current.digest
        if changed:
            _log.info("routing policy %s takes over from %s", policy.digest[:12], self.current.digest[:12])
            self.current = policy
        return changed

    def _parse(self, document: Mapping[str, object]) -> Policy:
        return parse_policy(with_tenants(document, self._tenants))

    def _check(self, policy: Policy) -> None:
        if self._probes is not None and self._probes.is_file():
            check(policy, _read(self._probes))


def _read(path: Path) -> Mapping[str, object]:
    try:
        document: object = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError) as error:
        raise PolicyError(f"{path.name} is not YAML") from error
    if not isinstance(document, dict):
        raise PolicyError(f"{path.name} must be a mapping")
    return document  # pyright: ignore[reportUnknownVariableType] - parse_policy checks every key


def stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What tells one state of a file from another; None where there is no file."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)
