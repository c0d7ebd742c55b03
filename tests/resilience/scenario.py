"""Parts of a running cluster are killed, drained, replaced and cut off under load: what `test_resilience.py` looks at.

One cluster, one graph, one scenario after the other. Run as the first process of namespaces of its own:
`python -m tests.resilience.scenario LOG FOLDER [SCENARIO ...]`.
"""

import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx2

from deployments.store import sqlite_url
from tests.cluster.tier import Log
from tests.resilience.cut import Cut
from tests.resilience.graph import SPARE, STATE, WORK, Graph, revision
from tests.resilience.judge import charges, endings, merged, of_tenant, records, verify
from tests.resilience.load import Ending, Load, Reply
from tests.resilience.nodes import Machine, cluster, until
from tests.tenants.books import Books

SHORT, LONG_CLIENTS = 6, 6
OLD, NEW = revision("old"), revision("new")
LIMIT_S = 600.0
"""Of each wait, so that a broken run ends; a busy machine takes long for everything."""
_ENOUGH = 20
"""Whole answers before a fault, and after it."""


class Run:
    """A cluster with the graph on it, and what became of it so far."""

    def __init__(self, graph: Graph, log: Log) -> None:
        self.graph = graph
        self.log = log
        self.books = Books(sqlite_url(graph.state / "state" / "ledger.db"))

    @property
    def workers(self) -> list[Machine]:
        """Living machines that serve."""
        return self.graph.cluster.of("work")

    def busiest(self, load: Load) -> Machine:
        """The machine with the most long streams."""
        return max(self.workers, key=lambda each: load.streaming(each.name))

    def replace(self, machine: Machine) -> Machine:
        """A new machine in the place of one."""
        return self.graph.cluster.join(machine.role, STATE if machine.role == "state" else WORK)

    async def through(self, name: str, fault: Callable[[Load], Sequence[Machine]]) -> None:
        """Load before, during and after `fault`, which answers which machines it ended, once all is well again."""
        tenant = f"t-{name}"
        load = Load(lambda: self.workers, await asyncio.to_thread(self.graph.keys, tenant, 3), name)
        clients = asyncio.create_task(load.run(SHORT, LONG_CLIENTS))
        try:
            await asyncio.to_thread(until, "the load runs", lambda: started(load), LIMIT_S)
            self.log("fault", scenario=name, open=len(load.open))
            fault_s = asyncio.get_running_loop().time()
            lost = await asyncio.to_thread(fault, load)
            well_s = asyncio.get_running_loop().time()
            self.log("healthy", scenario=name, seconds=round(well_s - fault_s, 1), so_far=dict(load.counts()))
            await asyncio.to_thread(until, "it goes on", lambda: answered(load, well_s) >= _ENOUGH, LIMIT_S)
        finally:
            load.stop()
            await clients
        await asyncio.to_thread(until, "everything is settled", lambda: self._settled(tenant), LIMIT_S)
        await asyncio.to_thread(until, "the log is quiet", lambda: quiet(self.graph, tenant), LIMIT_S)
        parts = endings(load, (each.name for each in lost)), charges(load, self.books.rows(tenant))
        found = merged([*parts, records(load.replies, self.graph.log, tenant)])
        found.figures["seconds until healthy"] = round(well_s - fault_s, 1)
        found.figures["answered after it was well"] = answered(load, well_s)
        self.log("series", scenario=name, seconds=series(load.replies, fault_s))
        self.log("scenario", scenario=name, figures=found.figures, faults=found.faults)

    def _settled(self, tenant: str) -> bool:
        self.graph.nudge()
        return self.books.open(tenant) == 0


def series(replies: Sequence[Reply], fault_s: float) -> list[tuple[int, int, int]]:
    """For each second of a run, counted from the fault: requests that were answered in it, and those that were not."""
    ends = [(math.floor(each.ended_s - fault_s), each.whole) for each in replies]
    found = Counter(ends)
    return [(at, found[at, True], found[at, False]) for at in range(min(ends)[0], max(ends)[0] + 1)]


def answered(load: Load, since_s: float) -> int:
    """Requests that began at or after a time and were answered."""
    return sum(each.whole and each.began_s >= since_s for each in load.replies)


def started(load: Load) -> bool:
    """True when every kind of client was served, and long streams are under way wherever they can."""
    return load.count(Ending.WHOLE) >= _ENOUGH and all(load.streaming(each.name) for each in load.healthy)


def upgrade(run: Run) -> Callable[[Load], Sequence[Machine]]:
    """A new revision of the model, and with it of every ingress, in the steps that interrupt nobody.

    The new engines start beside the old ones, then they change places, then the old ones go. Each step replaces every
    ingress: Serve starts the new ones first.
    """

    def fault(load: Load) -> Sequence[Machine]:
        run.graph.cluster.join("work", SPARE)
        for step in ((OLD, NEW), (NEW, OLD), (NEW, None)):
            run.graph.submit(*step)
            until("Serve begins", lambda: run.graph.status() == "DEPLOYING", LIMIT_S)
            run.graph.wait("the step is done")
            run.log("step", so_far=dict(load.counts()))
        return ()

    return fault


def drain(run: Run) -> Callable[[Load], Sequence[Machine]]:
    """A machine is asked to leave, and its successor starts at the same time."""

    def fault(load: Load) -> Sequence[Machine]:
        leaving = run.busiest(load)
        run.log("leaving", machine=leaving.name, streams=load.streaming(leaving.name), placed=run.graph.placed())
        leaving.terminate()
        run.replace(leaving)
        until("it has left", lambda: not leaving.alive, LIMIT_S)
        run.log("left", machine=leaving.name, so_far=dict(load.counts()))
        run.graph.wait("all is whole again")
        return ()  # nothing may break that it was drained for

    return fault


def kill_worker(run: Run) -> Callable[[Load], Sequence[Machine]]:
    """A machine with an ingress, a proxy and engines is gone at once."""

    def fault(load: Load) -> Sequence[Machine]:
        victim = run.busiest(load)
        run.log("killing", machine=victim.name, streams=load.streaming(victim.name), placed=run.graph.placed())
        run.log("killed", processes=victim.kill())
        run.replace(victim)
        until("its death is noticed", lambda: victim.address not in str(run.graph.placed()), LIMIT_S)
        run.graph.wait("all is whole again")
        return (victim,)

    return fault


def kill_ingress(run: Run) -> Callable[[Load], Sequence[Machine]]:
    """The process of an ingress ends; the proxy before it lives on."""

    def fault(load: Load) -> Sequence[Machine]:
        where = run.busiest(load)
        (victim, *_) = where.replicas("Ingress")
        run.log("killing", machine=where.name, streams=load.streaming(where.name))
        victim.kill()
        until(
            "there is another one", lambda: any(each.pid != victim.pid for each in where.replicas("Ingress")), LIMIT_S
        )
        run.graph.wait("all is whole again")
        return ()  # its proxy lives: whoever it cuts off must be told

    return fault


def kill_state(run: Run) -> Callable[[Load], Sequence[Machine]]:
    """The machine with ledger, audit sink, gate and router is gone at once; another one gets its volume."""

    def fault(load: Load) -> Sequence[Machine]:
        (victim,) = run.graph.cluster.of("state")
        run.log("killed", processes=victim.kill())
        run.replace(victim)
        until("its death is noticed", lambda: victim.address not in str(run.graph.placed()), LIMIT_S)
        run.graph.wait("all is whole again")
        return ()  # no client is connected to it

    return fault


def kill_head(run: Run) -> Callable[[Load], Sequence[Machine]]:
    """The head is gone, clients are served without it, and a new one with an empty disk takes over."""

    def fault(load: Load) -> Sequence[Machine]:
        replicas = sorted(process.pid for machine in run.workers for process in machine.replicas(""))
        run.log("killed", processes=run.graph.cluster.head.kill())
        reached = load.count(Ending.WHOLE) + _ENOUGH
        until("clients are served without a head", lambda: load.count(Ending.WHOLE) >= reached, LIMIT_S)
        run.log("served without a head", so_far=dict(load.counts()))
        run.graph.cluster.start_head()
        run.graph.wait("all is whole again")
        after = sorted(process.pid for machine in run.workers for process in machine.replicas(""))
        run.log("head is back", same_replicas=replicas == after, replicas=len(after))
        return ()

    return fault


def cut(run: Run, *, only_answers: bool = False) -> Callable[[Load], Sequence[Machine]]:
    """Ingress and audit sink do not hear of each other; everything else goes on. Then they do again."""

    def fault(load: Load) -> Sequence[Machine]:
        (state,) = run.graph.cluster.of("state")
        (sink,) = state.replicas("AuditSink")
        began = len(load.replies)

        def unrecorded() -> int:
            return sum(each.whole and each.receipt is None for each in load.replies[began:])

        def recorded(since: int) -> int:
            return sum(each.whole and each.receipt is not None for each in load.replies[since:])

        with Cut(state, sink, run.workers, only_answers=only_answers):
            until("answers leave without a receipt", lambda: unrecorded() >= _ENOUGH, LIMIT_S)
            run.log("cut", without_receipt=unrecorded(), ready=[ready(each) for each in run.workers])
        mended = len(load.replies)
        until("answers have receipts again", lambda: recorded(mended) >= _ENOUGH, LIMIT_S)
        run.graph.wait("all is whole again")
        return ()

    return fault


def ready(machine: Machine) -> int:
    """Status of /readyz."""
    with suppress(httpx2.HTTPError):
        return httpx2.get(f"{machine.url}/readyz", timeout=30).status_code
    return 0


SCENARIOS: dict[str, Callable[[Run], Callable[[Load], Sequence[Machine]]]] = {
    "kill-ingress": kill_ingress,
    "kill-worker": kill_worker,
    "kill-state": kill_state,
    "kill-head": kill_head,
    "cut": cut,
    "cut-answers": partial(cut, only_answers=True),
    "drain": drain,
    "upgrade": upgrade,
}


def play(log: Log, folder: Path, names: Sequence[str]) -> None:
    """Start the cluster and the graph, go through the scenarios, and look at log and books at the end."""
    with cluster(folder) as made:
        graph = Graph(made, folder / "state")
        made.join("state", STATE)
        made.join("work", WORK)
        made.join("work", WORK)
        log("cluster", machines=[each.name for each in made.machines])
        graph.submit(OLD)
        log("deployed", seconds=round(graph.wait("the application runs"), 1), placed=graph.placed())
        run = Run(graph, log)
        for name in names:
            asyncio.run(run.through(name, SCENARIOS[name](run)))
        status, said = verify(graph.log)
        log("log", verify=status, said=said)


def quiet(graph: Graph, tenant: str) -> bool:
    """True when nothing of a tenant comes into the log any more: what waited in an ingress is there."""
    before = len(of_tenant(graph.log, tenant))
    time.sleep(3)
    return len(of_tenant(graph.log, tenant)) == before


def main() -> None:
    log, folder = Log(Path(sys.argv[1])), Path(sys.argv[2])
    names: Sequence[str] = sys.argv[3:] or list(SCENARIOS)
    play(log, folder, names)


if __name__ == "__main__":
    main()
