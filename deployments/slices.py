"""Which revision a session gets. Pure: the same on every replica, after every restart.

A session has a place among ten thousand that depends on the rollout and on nothing else, and gets the candidate when
its place is below the share. So whoever was in 5 % is in 25 %, and the next rollout takes others first.
"""

import hashlib
from typing import Final

from deployments.rollouts import Slice

PLACES: Final = 10_000
_DOMAIN: Final = b"gatehouse slice v1"


def place(rollout_id: str, tenant: str, session: str) -> int:
    """Where a session of a tenant is among `PLACES`, from 0."""
    digest = hashlib.sha256(_DOMAIN)
    for part in (rollout_id, tenant, session):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)  # no two lists of parts are the same bytes
    return int.from_bytes(digest.digest()[:16], "big") % PLACES


def is_candidates(split: Slice, tenant: str, session: str) -> bool:
    """True when the session gets the new revision."""
    return place(split.rollout_id, tenant, session) < split.share * PLACES // 100


def revision_for(split: Slice, tenant: str, session: str) -> str:
    """The revision that a session gets."""
    return split.revision if is_candidates(split, tenant, session) else split.previous_revision
