"""The drills against real engines: each failure is noticed by the shipped rules, and the system comes back."""

import json
import shutil
import subprocess
import sys
from typing import Any

import psutil
import pytest

from tests.serve.conftest import Stack

pytestmark = [
    pytest.mark.drills,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        shutil.which("promtool") is None,
        reason="promtool is not installed (Debian: prometheus); nobody evaluates the rules",
    ),
]
_LONGEST_S = 850


def drilled(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "serve_app", "drill", *arguments], capture_output=True, text=True, timeout=_LONGEST_S,
        check=False, env=stack.environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def held(stack: Stack, name: str) -> dict[str, Any]:
    done = drilled(stack, name, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] is True
    with stack.operator() as http:
        keys = http.get("/v1/admin/keys").raise_for_status().json()["data"]
        records = http.get("/v1/audit/records", params={"tenant": report["tenant"], "limit": 1000}).json()["data"]
    mine = [key for key in keys if key["tenant"] == report["tenant"]]
    assert len(mine) == 2
    assert all(key["revoked_ms"] is not None for key in mine)
    named = [each["record"]["name"] for each in records if each["record"]["change_id"] == report["change_id"]]
    assert {"incident.opened", "incident.closed", "change.closed"} <= set(named)
    return report


def test_inc_01_an_engine_that_stands_still_is_noticed_and_goes_on(stack: Stack) -> None:
    before = stack.engines()
    report = held(stack, "inc-01")
    assert report["failure"]["first_token_median_s"] > 10
    assert report["alert"]["name"] == "GatehouseFirstTokenSlow"
    after = stack.engines()
    assert {name: each["pid"] for name, each in after.items()} == {name: each["pid"] for name, each in before.items()}
    pids = [pid for each in after.values() for pid in (each["pid"], *each["core_pids"])]
    assert [pid for pid in pids if psutil.Process(pid).status() == psutil.STATUS_STOPPED] == []


def test_inc_02_a_killed_engine_is_noticed_and_comes_back(stack: Stack) -> None:
    before = stack.engines()
    report = held(stack, "inc-02")
    assert report["failure"]["truncated"] == 0
    assert report["failure"]["with_error_event"] == report["failure"]["streams"] > 0
    after = stack.engines()
    assert after["demo-20b"]["pid"] != before["demo-20b"]["pid"]
    assert after["demo-120b"]["pid"] == before["demo-120b"]["pid"]


def test_inc_03_answers_that_become_wrong_are_noticed(stack: Stack) -> None:
    report = held(stack, "inc-03")
    assert report["failure"]["model"] == "demo-120b"
    assert report["failure"]["baseline"]["right"] == report["failure"]["baseline"]["asked"]
    assert report["failure"]["regression"]["wrong"] == report["failure"]["regression"]["asked"]


def test_a_key_without_the_scope_breaks_nothing(stack: Stack) -> None:
    before = stack.engines()
    done = subprocess.run(
        [sys.executable, "-m", "serve_app", "drill", "inc-02"], capture_output=True, text=True, check=False,
        timeout=120, env={**stack.environment, "GATEHOUSE_KEY": stack.key}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2
    assert "scope" in done.stderr
    assert stack.engines()["demo-20b"]["pid"] == before["demo-20b"]["pid"]


def test_the_restore_drill_works_on_the_running_system_and_status_knows_of_it(stack: Stack) -> None:
    done = drilled(stack, "restore", "--config", str(stack.config))
    assert done.returncode == 0, done.stdout + done.stderr
    said = stack.cli("status", "--json", check=False)
    lines = {line["topic"]: line for line in json.loads(said.stdout)["lines"]}
    assert lines["last restore drill"]["state"] == "ok"
    assert lines["parts"]["state"] == "ok"
    assert lines["version"]["seen"].split(",")[1].strip() == "profile local"
