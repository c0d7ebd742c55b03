"""What the checks of answers say of two revisions: most of them can find a fault and prove nothing."""

from dataclasses import replace

from deployments.ingress.journey import Ask
from deployments.ingress.settings import CascadeSettings, IngressSettings
from deployments.ports import Dialect, RequestId
from deployments.rollouts import Metric
from tests.cascading import Asking, settled
from tests.fakes import KEY, ScriptedEngine, json_reply
from tests.unit.ingress.test_revised import Split


async def test_an_answer_that_no_check_found_fault_with_is_a_good_trial() -> None:
    """The revision before answers as ever; the new one says nothing at all, which the checks see."""
    world = Asking(
        ScriptedEngine(json_reply("Good morning to you.")),
        second=ScriptedEngine(json_reply("")),
        settings=IngressSettings(record_delay_s=0, cascade=CascadeSettings(verify_all=True)),
    )
    world.rollouts = rollouts = Split(world.clock)
    revisions = world.surface().revisions
    assert revisions is not None
    body = {"model": "auto", "messages": [{"role": "user", "content": "Say hello"}]}
    for share in (0, 100):
        rollouts.split = replace(rollouts.split, share=share, shadow=share == 0)
        await revisions.look()
        for number in range(3):
            ask = Ask(Dialect.CHAT, RequestId(f"req_{share}_{number}"), KEY, {"x-session-id": f"s{number}"}, body)
            async for _ in world.surface().journey.answer(ask):
                pass
        await settled(world)
    await revisions.look()
    found = {(each.share, each.candidate): (each.bad, each.trials) for each in rollouts.told
             if each.metric is Metric.VERIFIER}  # fmt: skip
    assert found[0, False] == (0, 3)
    assert found[100, True] == (3, 3)
