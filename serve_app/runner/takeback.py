"""Taking an executed call back: each step of its recorded plan, under a permit of its own, then the verification."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from deployments.gate.commands import run_of
from deployments.gate.permits import BadPermit
from deployments.ports import JsonValue
from serve_app.runner.house import House, Refused, Reply
from serve_app.runner.profile import prepare
from serve_app.runner.settings import RunnerSettings
from serve_app.runner.work import NotRun, Progress, Ran, Runner, Sink, answer_of, quiet


class Back(StrEnum):
    """How far the way back got."""

    DONE = "done"
    FAILED = "failed"
    BY_HAND = "by_hand"  # every step is done; a human must verify, and report
    STOPPED = "stopped"  # a step waits for an approval, or was denied


@dataclass(frozen=True, slots=True)
class TakenBack:
    """The end of one attempt. `steps` are the 0-based steps that it executed; `not_run` why it stopped."""

    back: Back
    steps: tuple[int, ...]
    not_run: NotRun | None = None
    verify: str | None = None


class TakeBack:
    """Executes the way back of one permit. What an earlier attempt has done is not done again."""

    def __init__(
        self,
        runner: Runner,
        house: House,
        settings: RunnerSettings,
        environment: Mapping[str, str],
    ) -> None:
        self._runner = runner
        self._house = house
        self._settings = settings
        self._environment = environment

    async def __call__(self, permit_id: str, sink: Sink, progress: Progress = quiet) -> TakenBack:
        """Take every step that is left, in order, until one does not succeed."""
        origin = await self._house.permit(permit_id)
        texts, done = _plan(origin)
        executed: list[int] = []
        last: Ran | None = None
        for step, text in enumerate(texts):
            if step in done:
                continue
            await progress(f"step {step + 1} of {len(texts)}")
            reply = await self._house.take_back(permit_id, step, self._settings.audience)
            if reply.get("status") == "by_hand":
                return TakenBack(Back.BY_HAND, tuple(executed), verify=text)
            permit = answer_of(reply)
            if isinstance(permit, NotRun):
                return TakenBack(Back.STOPPED, tuple(executed), permit)
            last = await self._step(permit, text, sink)
            executed.append(step)
            if last.ended.status != 0:
                await self._tell(last, "failed")
                return TakenBack(Back.FAILED, tuple(executed))
        if last is not None:
            await self._tell(last, "succeeded")
        return TakenBack(Back.DONE, tuple(executed))

    async def _step(self, permit: Reply, text: str, sink: Sink) -> Ran:
        binding = permit.get("binding")
        given = binding if isinstance(binding, dict) else {}
        wanted = run_of(str(given.get("tool")), str(given.get("arguments")))
        # The directory is the one of the call that is taken back; the words are those that the plan was shown with.
        if wanted is None or wanted.command != text:
            raise BadPermit("The permit is for another command than the step of the plan.")
        return await self._runner.under(permit, wanted, prepare(wanted, self._settings, self._environment), sink)

    async def _tell(self, last: Ran, rollback: str) -> None:
        """The report of the last step once more, with what became of the way back."""
        await self._house.report(last.permit_id, {**last.report, "rollback": rollback})


def _plan(origin: Reply) -> tuple[tuple[str, ...], frozenset[int]]:
    plan = origin.get("plan")
    if not isinstance(plan, dict):
        raise Refused("no plan was recorded with this call")
    steps, verify = plan.get("steps"), plan.get("verify")
    if not isinstance(steps, list) or not isinstance(verify, str):
        raise Refused("the plan of this call cannot be read")
    done = cast("list[JsonValue]", origin.get("taken_back") or [])
    return (*map(str, steps), verify), frozenset(step for step in done if isinstance(step, int))
