"""Gatehouse as the clients meet it: a scripted model server behind it, a counting proxy before it."""

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.ports import ApprovalState
from tests.conformance.counter import Counter
from tests.conformance.upstream import Upstream
from tests.serve.conftest import Stack

_OPEN = (ApprovalState.NEEDS_PLAN, ApprovalState.PENDING)


@dataclass(frozen=True, slots=True)
class House:
    """Gatehouse as the clients meet it."""

    stack: Stack
    upstream: Upstream
    front: Counter
    workspaces: Path

    def key(self, name: str, *options: str) -> str:
        """A fresh key; `options` are those of `gatehouse keys create`. Without any it is the development key."""
        if not options:
            return self.stack.key
        made = self.stack.cli("keys", "create", "--tenant", "default", "--name", name, "--json", *options)
        return str(json.loads(made.stdout)["key"])

    def workspace(self, name: str) -> Path:
        """An empty folder that the policy takes for a workspace."""
        folder = self.workspaces / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def waiting(self) -> list[dict[str, Any]]:
        """Approvals that wait for a plan or a vote."""
        with self.stack.operator() as http:
            found: list[dict[str, Any]] = http.get("/v1/approvals").raise_for_status().json()["data"]
        return [each for each in found if each["state"] in _OPEN]

    @contextmanager
    def approving(self) -> Iterator[list[str]]:
        """Approve whatever is held meanwhile, with change id and rollback plan; the list names the tools."""
        old = {each["id"] for each in self.waiting()}
        approved: list[str] = []
        over = threading.Event()

        def work() -> None:
            while not over.wait(0.3):
                for each in self.waiting():
                    if each["id"] not in old:
                        self._approve(each)
                        approved.append(each["tool"])

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            try:
                yield approved
            finally:
                over.set()
                working.result(30)

    def _approve(self, approval: dict[str, Any]) -> None:
        path = f"/v1/approvals/{approval['id']}"
        with self.stack.operator() as http:
            if approval["state"] == ApprovalState.NEEDS_PLAN:
                plan = {"change_id": "CHG-7", "steps": ["git checkout -- ."], "verify": "git status is clean"}
                approval = http.post(f"{path}/plan", json=plan).raise_for_status().json()
            if approval["state"] == ApprovalState.PENDING:
                vote = {
                    "decision": "approve",
                    "reason": "wanted",
                    "action_digest": approval["action_digest"],
                    "display_digest": approval["display_digest"],
                }
                http.post(f"{path}/votes", json=vote).raise_for_status()
