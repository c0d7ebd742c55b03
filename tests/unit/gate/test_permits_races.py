"""Many redeem one permit at the same moment: one wins, on one replica and on several, on SQLite and PostgreSQL.

The full run, with `GATEHOUSE_RACES=10000` (`GATEHOUSE_RACES_STORE`: the URL of another store), takes an hour; the tier
has some thousand attempts.
"""

import asyncio
import os
import secrets
from collections import Counter
from pathlib import Path

import pytest

from deployments.errors import ApprovalConflict, Forbidden
from deployments.gate.settings import GateSettings
from deployments.ports import IssuedPermit, PermitState, Scope
from tests.unit.gate.permit_office import AGENT, RUNNER, Office, ask_for, person

ROOT = person("root", Scope.ADMIN, Scope.APPROVE)
WORKERS = 64
RACES = int(os.environ.get("GATEHOUSE_RACES", "24"))
STORE = os.environ.get("GATEHOUSE_RACES_STORE")


async def test_of_sixty_four_workers_one_wins_every_race(tmp_path: Path, store_url: str) -> None:
    at = Office(tmp_path)
    # Nobody is frozen here: the losers are meant to come again.
    at.settings = GateSettings(freeze_on=())
    offices = [at.other(STORE or store_url)[1] for _ in range(2)]
    await at.stores[1].open()
    for office in offices:
        await office.open()

    async def race(number: int) -> Counter[str]:
        permit = await offices[0].issue(AGENT, ask_for(f"echo {secrets.token_hex(8)}"))
        ready = asyncio.Event()

        async def worker(place: int) -> str:
            await ready.wait()
            # A few on the other replica: every one of those goes through the database alone.
            office = offices[1] if place % 16 == number % 16 else offices[0]
            try:
                taken = await office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
            except ApprovalConflict:
                return "lost"
            return "won" if taken.state is PermitState.REDEEMED else "odd"

        workers = [asyncio.create_task(worker(place)) for place in range(WORKERS)]
        ready.set()
        return Counter(await asyncio.gather(*workers))

    for number in range(RACES):
        assert await race(number) == {"won": 1, "lost": WORKERS - 1}
    assert len(at.audit.named("permit.redeemed")) == RACES
    assert len({event.data["permit_id"] for event in at.audit.named("permit.redeemed")}) == RACES
    await at.close()


@pytest.mark.parametrize("frozen_first", [True, False])
async def test_a_freeze_and_a_redemption_do_not_both_win(tmp_path: Path, store_url: str, frozen_first: bool) -> None:
    at = Office(tmp_path)
    at.desk, at.office = at.other(store_url)
    await at.stores[-1].open()
    await at.office.open()
    permits: list[IssuedPermit] = [await at.office.issue(AGENT, ask_for(f"echo {number}")) for number in range(16)]
    if frozen_first:
        await at.desk.freezer.freeze(ROOT, AGENT.key_id, "suspicious")
    answers = await asyncio.gather(
        *(at.office.redeem(AGENT, each.permit_id, each.ask.action_digest, RUNNER) for each in permits),
        *([] if frozen_first else [at.desk.freezer.freeze(ROOT, AGENT.key_id, "suspicious")]),
        return_exceptions=True,
    )
    redeemed = {str(event.data["permit_id"]) for event in at.audit.named("permit.redeemed")}
    won = {each.permit_id for each in answers if isinstance(each, IssuedPermit)}
    assert won == redeemed
    assert all(isinstance(each, Forbidden) for each in answers[:16] if not isinstance(each, IssuedPermit))
    if frozen_first:
        assert redeemed == set()
    names = at.audit.names()
    assert "permit.redeemed" not in names[names.index("principal.frozen") :]
    await at.close()
