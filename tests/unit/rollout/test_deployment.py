"""The Serve class without Serve: its handles are stand-ins, its database is a file."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from deployments.errors import InvalidRequest
from deployments.ports import AuditEvent, Receipt
from deployments.rollout.deployment import RolloutController
from deployments.rollout.settings import EvalSettings, RolloutSettings
from deployments.rollout.works import Deployed
from deployments.rollouts import (
    POLICY_TARGET,
    Artefact,
    Draft,
    Family,
    Kind,
    Move,
    Plan,
    State,
    file_sum,
    revision_of_files,
)
from deployments.store import sqlite_url
from tests.fakes_audit import InMemoryAudit

RULES = b"rules: []"
FILE = file_sum("policy.yaml", RULES)
PLAN = Plan(
    "ro-1", Kind.POLICY, POLICY_TARGET, revision_of_files(Kind.POLICY, POLICY_TARGET, [FILE]), "before", "CHG-1"
)


def policy(folder: Path) -> Artefact:
    """A bundle that lies there."""
    (folder / FILE.path).write_bytes(RULES)
    return Artefact(Kind.POLICY, POLICY_TARGET, str(folder / FILE.path), (FILE,))


class Sink:
    """A handle of the audit sink."""

    def __init__(self, audit: InMemoryAudit) -> None:
        self._audit = audit

    @property
    def append(self) -> "Sink":
        return self

    async def remote(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        return await self._audit.append(events)


def made(folder: Path, audit: InMemoryAudit, loaded: list[Artefact], key: str | None = None) -> RolloutController:
    settings = RolloutSettings(tick_s=0.01, artefact_key=key)
    url = sqlite_url(folder / "rollout.db")
    deployed = (
        Deployed(POLICY_TARGET, "before", family=Family.POLICY),
        Deployed(POLICY_TARGET, PLAN.revision, str(folder / FILE.path), family=Family.POLICY),
    )
    return RolloutController(Sink(audit), {}, url, settings, {Kind.POLICY: loaded.append}, deployed)


@pytest.fixture
def audit() -> InMemoryAudit:
    return InMemoryAudit()


@pytest.fixture
def loaded() -> list[Artefact]:
    return []


@pytest.fixture
async def controller(tmp_path: Path, audit: InMemoryAudit, loaded: list[Artefact]) -> AsyncIterator[RolloutController]:
    controller = made(tmp_path, audit, loaded)
    yield controller
    await controller.close()


async def until(controller: RolloutController, state: State) -> None:
    while (await controller.get("ro-1")).standing.state is not state:
        await asyncio.sleep(0.01)


async def test_it_drives_rollouts_by_itself_and_goes_on_after_a_restart(
    tmp_path: Path, audit: InMemoryAudit, loaded: list[Artefact], controller: RolloutController
) -> None:
    assert await controller.ready()
    assert await controller.register(policy(tmp_path), "key_1") == PLAN.revision
    await controller.start(PLAN, "key_1")
    await until(controller, State.SLICE)
    assert loaded == [policy(tmp_path)]
    await controller.check_health()
    assert [each.share for each in await controller.slices()] == [5]
    await controller.close()
    again = made(tmp_path, audit, loaded)
    await again.move("ro-1", Draft(Move.ADVANCE, "key_1", "CHG-1", "by hand", to=25))
    assert [each.plan for each in await again.rollouts()] == [PLAN]
    assert [each.record for each in await again.history("ro-1")] == [1, 2, 3, 4, 5]  # behind the registration
    await again.observe([])
    await again.close()


@pytest.mark.usefixtures("told_workers")
async def test_a_driver_that_died_is_no_healthy_replica(controller: RolloutController) -> None:
    await controller.check_health()
    (driver,) = controller._rounds._loops
    driver.cancel()
    await asyncio.wait([driver])
    with pytest.raises(asyncio.CancelledError):
        await controller.check_health()


async def test_a_key_that_cannot_be_read_stops_the_start(tmp_path: Path, audit: InMemoryAudit) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        made(tmp_path, audit, [], key=str(tmp_path / "absent.pub"))


async def test_a_bad_suite_stops_the_start_and_says_where(tmp_path: Path, audit: InMemoryAudit) -> None:
    (tmp_path / "suite.jsonl").write_text('{"name": "one"}\n')
    for name, says in (("suite.jsonl", r"suite\.jsonl:1: family: Field required"), ("absent.jsonl", "cannot be read")):
        settings = RolloutSettings(eval=EvalSettings(suite=str(tmp_path / name)))
        with pytest.raises(InvalidRequest, match=says):
            RolloutController(Sink(audit), {}, sqlite_url(tmp_path / "rollout.db"), settings, {})


async def test_with_a_key_what_is_not_signed_is_not_registered(tmp_path: Path, audit: InMemoryAudit) -> None:
    public = tmp_path / "artefacts.pub"
    key = Ed25519PrivateKey.generate().public_key()
    public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    controller = made(tmp_path, audit, [], key=str(public))
    with pytest.raises(InvalidRequest, match="not signed"):
        await controller.register(policy(tmp_path), "key_1")
    await controller.close()
