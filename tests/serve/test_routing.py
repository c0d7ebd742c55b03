"""The router on the real graph: a checked answer, a verdict on it, and what routing is worth on these models."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.serve.conftest import Stack

PRODUCT = [{"role": "user", "content": "What is 7 times 8?"}]  # demo-20b never learned to multiply, and says so


def ask(stack: Stack, session: str, **headers: str) -> httpx.Response:
    with stack.http(**{"x-session-id": session, **headers}) as http:
        body = {"model": "auto", "temperature": 0, "messages": PRODUCT}
        return http.post("/v1/chat/completions", json=body).raise_for_status()


def text_of(reply: httpx.Response) -> str:
    return reply.json()["choices"][0]["message"]["content"]


def explained(stack: Stack, route_id: str) -> dict[str, Any]:
    with stack.http() as http:
        return http.get(f"/v1/route/{route_id}").raise_for_status().json()


def test_an_answer_is_checked_where_that_is_asked_for(stack: Stack) -> None:
    plain = ask(stack, "plain")
    assert plain.headers["x-gatehouse-tier"] == "20b"
    checked = ask(stack, "cascade", **{"x-gatehouse-cascade": "true"})
    assert checked.headers["x-gatehouse-cascade"] in {"kept", "escalated"}
    assert text_of(checked)


def test_a_turn_is_explained_and_a_verdict_on_it_is_taken_once(stack: Stack) -> None:
    reply = ask(stack, "judged")
    route_id = reply.headers["x-gatehouse-route-id"]
    found = explained(stack, route_id)
    logit = math.fsum(term["value"] for term in found["contributions"])
    assert math.isclose(1 / (1 + math.exp(-logit)), found["difficulty"], abs_tol=1e-4)
    assert found["snapshot"]
    assert found["detail"]["alternatives"]
    assert "7 times 8" not in json.dumps(found)
    body = {"route_id": route_id, "verdict": "wrong", "source": "tool", "event_id": "serve-1"}
    with stack.http() as http:
        first, again = (http.post("/v1/feedback", json=body) for _ in range(2))
        assert (first.status_code, first.json()["weight"]) == (200, 0.5)
        assert again.json() == first.json()
        other = http.post("/v1/feedback", json={**body, "verdict": "ok"})
    assert (other.status_code, other.json()["error"]["code"]) == (400, "feedback_conflict")


def test_what_routing_is_worth_is_measured_over_http(stack: Stack, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve_app", "router", "live", "--base-url", f"{stack.url}/v1", "--count", "12",
         "--out", str(tmp_path)],
        env={**os.environ, "GATEHOUSE_KEY": stack.key}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = {line["way"]: line for line in json.loads((tmp_path / "live.json").read_text())}
    weak, strong, cascade = (lines[way] for way in ("always weak", "always strong", "router and cascade"))
    assert (weak["strong_share"], strong["strong_share"]) == (0.0, 1.0)
    assert strong["accuracy"] > weak["accuracy"]
    assert cascade["cascades"]  # the answers were looked at
    assert "| router and cascade |" in done.stdout
