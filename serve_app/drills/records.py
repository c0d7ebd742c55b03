"""What a drill leaves in the audit log, and whether that can be proven."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import rfc8785

from deployments.audit.chain import leaf_hash
from deployments.audit.notes import parse_verifier_key
from deployments.audit.proofs import BadProof, Trust, parse_inclusion_proof, verify_inclusion_proof
from serve_app.drills.acting import Actor

_PAGE = 1000


def records_of(operator: Actor, tenant: str, began: int) -> list[Mapping[str, Any]]:
    """The records of a tenant from index `began` on."""
    found: list[Mapping[str, Any]] = []
    begin: int | None = began
    while begin is not None:
        page = operator.must("GET", f"/v1/audit/records?tenant={tenant}&limit={_PAGE}&begin={begin}")
        found.extend(cast(Sequence[Mapping[str, Any]], page["data"]))
        begin = page["next"]
    return found


def named(records: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Those that tell of one kind of event."""
    return [each for each in records if each["record"].get("name") == name]


def data_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a record says about its event."""
    return cast(Mapping[str, Any], record["record"].get("data") or {})


def log_key_of(operator: Actor) -> str:
    """The key that the log signs with, as the server says it."""
    return str(cast(Sequence[str], operator.must("GET", "/v1/audit/keys")["keys"])[0])


def proves(operator: Actor, record: Mapping[str, Any], log_key: str) -> bool:
    """True when the record, as it was shown, is in the log that `log_key` signs."""
    leaf = leaf_hash(rfc8785.dumps(cast(dict[str, Any], record["record"])))
    told = operator.must("GET", f"/v1/audit/receipts/{record['index']}")
    key = parse_verifier_key(log_key)
    try:
        proof = parse_inclusion_proof(str(told["proof"]).encode())
        verify_inclusion_proof(proof, int(record["index"]), leaf, Trust(key.name, (key,)))
    except (BadProof, ValueError):
        return False
    return True
