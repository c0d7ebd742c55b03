"""What one approval is bound to: one call of one session under one policy, as a digest.

`action_digest = SHA-256(RFC 8785(binding))`. Any change is a new call. The random call id keeps short commands from
being guessed from their digest; the fingerprint leaves it out, so that the same session is recognised when it emits
the same call again.
"""

import hashlib
import json
from dataclasses import dataclass

import rfc8785

from deployments.ports import JsonValue

SCHEMA = "gatehouse.action-binding/v1"
CLASSIFIER_VERSION = "1"


@dataclass(frozen=True, slots=True)
class ActionBinding:
    """Everything an approval covers. `arguments` is canonical; ids and digests are hex."""

    gate_call_id: str
    tenant: str
    principal: str
    session: str
    tool: str
    arguments: str
    policy_digest: str
    classifier_version: str = CLASSIFIER_VERSION

    def action_digest(self) -> str:
        """SHA-256 hex of the whole binding."""
        return _sha256({**self._fields(), "gate_call_id": self.gate_call_id})

    def fingerprint(self) -> str:
        """SHA-256 hex of the binding without its random call id."""
        return _sha256(self._fields())

    def _fields(self) -> dict[str, JsonValue]:
        return {
            "schema": SCHEMA,
            "tenant": self.tenant,
            "principal": self.principal,
            "session": self.session,
            "tool": self.tool,
            "arguments": self.arguments,
            "policy_digest": self.policy_digest,
            "classifier_version": self.classifier_version,
        }


def plan_digest(steps: tuple[str, ...], verify: str) -> str:
    """SHA-256 hex of a rollback plan."""
    return _sha256({"schema": "gatehouse.rollback-plan/v1", "steps": list(steps), "verify": verify})


def subject_digest(tenant: str, principal: str, session: str, tool: str, arguments: str) -> str:
    """SHA-256 hex of who calls what, whatever the policy: finds requests that a policy change has made stale."""
    return _sha256({"tenant": tenant, "principal": principal, "session": session, "tool": tool, "arguments": arguments})


def call_key(tenant: str, principal: str, session: str, call_id: str) -> str:
    """SHA-256 hex of the name by which a conversation speaks of a call. The id is a model's: any text."""
    name = json.dumps([tenant, principal, session, call_id])
    return hashlib.sha256(name.encode("ascii")).hexdigest()


def _sha256(value: dict[str, JsonValue]) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()
