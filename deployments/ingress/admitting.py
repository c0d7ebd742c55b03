"""Admissions under names of the ingress's own, so that one whose answer never came can be taken back.

The ledger may have given a grant and died, or been too slow, before it said so. Its request did not begin, so it must
not be charged: the ingress says the name until the ledger has heard it (`Settler`), and the ledger forgets the grant.
"""

import asyncio
import secrets

from deployments.errors import PartUnavailable
from deployments.ingress.settling import Settler
from deployments.ports import Grant, Ledger, ModelId, Principal, RequestId


class Admitting:
    """Asks the ledger for one ingress replica."""

    def __init__(self, ledger: Ledger, settler: Settler) -> None:
        self._ledger = ledger
        self._settler = settler

    async def admit(
        self, principal: Principal, request_id: RequestId, model: ModelId, tokens: int, prompt_tokens: int = 0
    ) -> Grant:
        """As `Ledger.admit`. Without an answer nothing stays set aside, also when the caller stops waiting for one."""
        grant_id = f"grant_{secrets.token_hex(16)}"
        try:
            return await self._ledger.admit(principal, request_id, model, tokens, prompt_tokens, grant_id)
        except (PartUnavailable, asyncio.CancelledError):
            asked = Grant(grant_id, principal.tenant, principal.key_id, tokens, request_id, model, team=principal.team)
            self._settler.take_back(asked)
            raise
