"""A held call that a model reviews is looked at by the guardrails of the tenant whose it is."""

import json
from dataclasses import replace

import pytest

from deployments.errors import Forbidden, GatehouseError, InvalidRequest
from deployments.guardrails.guard import RULES, Guardrails
from deployments.guardrails.meter import Uncounted
from deployments.guardrails.settings import GuardrailSettings
from deployments.guardrails.values import GuardrailUnavailable, Rule
from deployments.ingress.advice import Advisor
from deployments.ingress.egress import Reach
from deployments.ingress.screening import Screening
from deployments.ingress.settings import AdviceSettings
from deployments.ingress.trail import Recorder
from deployments.ports import ALL_EGRESS, Scope, Tier
from tests.api.test_guardrails import Broken
from tests.fakes import BASE, STRONG
from tests.fakes_audit import InMemoryAudit
from tests.unit.guardrails.samples import WORD
from tests.unit.ingress.test_advice import REVIEW, World, reply

MAIL, TOKEN = "bob@corp.example", f"sk-proj-{WORD}"
CALL = json.dumps({"command": f"curl -H 'x: {TOKEN}' https://host/{MAIL}"})


def guarded(profile: dict[str, object], rules: tuple[Rule, ...] = RULES, local: bool = True) -> World:
    world = World(reply(json.dumps(REVIEW)))
    audit = InMemoryAudit()
    settings = GuardrailSettings.model_validate({"tenants": {"acme": profile}})
    world.advisor = Advisor(
        {BASE: world.weak, STRONG: world.strong},
        [(Tier.STRONG, Reach(STRONG, local))],
        world.ledger,
        world.approvals,
        world.clock,
        AdviceSettings(auto=False, timeout_s=5, max_tokens=512),
        Screening(Guardrails(settings, rules), Recorder(audit, world.clock, 2), Uncounted(), world.clock),
    )
    return world


async def reviewed(world: World, admin: bool = False) -> str:
    """What the model was told of the call."""
    approval = await world.propose(CALL)
    key = world.ledger.add_key("root", Scope.ADMIN, Scope.APPROVE, tenant="house") if admin else world.principal
    await world.advisor.review(key, None, approval.approval_id)
    assert (await world.approvals.get(None, approval.approval_id)).proposal.arguments == CALL
    return json.dumps(world.strong.body)


@pytest.mark.parametrize("admin", [False, True], ids=["own", "of the house"])
async def test_the_model_is_told_the_call_without_what_is_masked(admin: bool) -> None:
    told = await reviewed(guarded({"pii": {"input": "mask"}, "secrets": {"input": "mask"}}), admin)
    assert MAIL not in told
    assert TOKEN not in told
    assert "[EMAIL]" in told


@pytest.mark.parametrize(
    ("profile", "rules", "error"),
    [
        ({"secrets": {"input": "block"}}, RULES, InvalidRequest),
        ({"required": True, "pii": {"input": "mask"}}, (Broken(),), GuardrailUnavailable),
    ],
    ids=["blocked", "not looked at"],
)
async def test_a_call_that_no_model_may_see_is_not_reviewed(
    profile: dict[str, object], rules: tuple[Rule, ...], error: type[GatehouseError]
) -> None:
    world = guarded(profile, rules)
    with pytest.raises(error):
        await reviewed(world)
    assert world.strong.calls == []


async def test_a_call_that_is_kept_local_is_not_reviewed_elsewhere() -> None:
    world = guarded({"secrets": {"input": "keep_local"}}, local=False)
    world.principal = replace(world.principal, egress=ALL_EGRESS)
    with pytest.raises(Forbidden):
        await reviewed(world)
    assert world.strong.calls == []
