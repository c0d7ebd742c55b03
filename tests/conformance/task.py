"""A client in front of a task, and what can be said of how it went."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.counter import Seen
from tests.conformance.drivers import LIMIT_S, Client, Place, Ran
from tests.conformance.house import House
from tests.conformance.results import Row
from tests.conformance.upstream import Asked, Scenario


@dataclass(frozen=True, slots=True)
class Task:
    """A client in front of a task, and the row of its result."""

    house: House
    client: Client
    row: Row
    folder: Path
    place: Place
    mark: int

    def run(
        self,
        scenario: Scenario | None,
        prompt: str = "What is the answer?",
        limit_s: float = LIMIT_S,
        configured: Callable[[], None] | None = None,
    ) -> Ran:
        """How the client ends. `scenario` None: what plays already. `configured` is called just before it starts."""
        environment = self.client.configure(self.place)
        if configured is not None:
            configured()
        if scenario is not None:
            self.house.upstream.play(scenario)
        ran = self.client.run(self.place, prompt, environment, limit_s)
        sent = self.sent
        self.row.requests, self.row.statuses = len(sent), [each.status for each in sent]
        self.row.exit_code, self.row.seconds = ran.exit_code, round(ran.seconds, 1)
        assert self.house.upstream.mistakes == [], f"{self.house.upstream.mistakes}: {ran.text[-2000:]}"
        assert ran.exit_code is not None, f"still running after {limit_s} s: {ran.text[-2000:]}"
        return ran

    @property
    def sent(self) -> list[Seen]:
        """The requests with the client's task; those for a title go to the small model."""
        return [
            each
            for each in self.house.front.generating(self.mark)
            if each.model == self.place.model and each.key == self.place.key
        ]

    @property
    def asked(self) -> list[Asked]:
        """What of it reached the model."""
        return self.house.upstream.asked

    def saw(self, ran: Ran, *words: str) -> None:
        """Keep the line that tells the user; it must be there."""
        lines = [line.strip() for line in ran.text.splitlines()]
        found = [line for line in lines if all(word.lower() in line.lower() for word in words)]
        assert found, ran.text[-3000:]
        self.row.seen = found[-1]
