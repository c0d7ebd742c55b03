"""The first key: how somebody who has just started Gatehouse becomes its operator."""

from pathlib import Path

from deployments.ports import KeySpec, Scope, TenantId
from deployments.tenancy.ledger import KeyLedger
from deployments.tenancy.pepper import write_secret

OPERATOR_KEY_FILE = "operator.key"
OPERATOR_SCOPES = frozenset({Scope.APPROVE, Scope.ADMIN, Scope.AUDIT_READ})


async def bootstrap(ledger: KeyLedger, state_dir: Path, person: str, tenant: TenantId) -> bool:
    """Make sure there is an operator key in `<state_dir>/operator.key`; True when any inference key exists.

    The file has mode 0600 and holds the only copy of the key. A file whose key this store never issued (the database
    was removed) is replaced; one whose key was revoked or has expired is left alone, because that was a decision.
    """
    path = state_dir / OPERATOR_KEY_FILE
    if not path.is_file() or not await ledger.knows(path.read_text(encoding="utf-8", errors="replace").strip()):
        spec = KeySpec(tenant=tenant, name="operator", person=person, scopes=OPERATOR_SCOPES)
        created = await ledger.create_key(spec, actor="bootstrap")
        write_secret(path, created.presented + "\n", replace=True)
    keys = await ledger.list_keys(None)
    return any(Scope.INFERENCE in key.scopes and key.revoked_ms is None for key in keys)
