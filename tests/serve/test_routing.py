"""The router on the real graph: a checked answer, a verdict on it, and what routing is worth on these models."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from tests.serve.conftest import Stack

PRODUCT = [{"role": "user", "content": "What is 7 times 8?"}]  # demo-20b never learned to multiply, and says so
FACT = [{"role": "user", "content": "What is the capital of France?"}]


def ask(stack: Stack, session: str, messages: list[dict[str, str]] = PRODUCT, /, **headers: str) -> httpx2.Response:
    with stack.http(**{"x-session-id": session, **headers}) as http:
        body = {"model": "auto", "temperature": 0, "messages": messages}
        return http.post("/v1/chat/completions", json=body).raise_for_status()


def text_of(reply: httpx2.Response) -> str:
    return reply.json()["choices"][0]["message"]["content"]


def explained(stack: Stack, route_id: str) -> dict[str, Any]:
    with stack.http() as http:
        return http.get(f"/v1/route/{route_id}").raise_for_status().json()


def test_what_the_smaller_model_gives_up_on_is_asked_of_the_larger_one(stack: Stack) -> None:
    plain = ask(stack, "plain")
    assert plain.headers["x-gatehouse-tier"] == "20b"
    assert "56" not in text_of(plain)
    checked = ask(stack, "cascade", **{"x-gatehouse-cascade": "true"})
    assert (checked.headers["x-gatehouse-cascade"], checked.headers["x-gatehouse-tier"]) == ("escalated", "120b")
    assert checked.headers["x-gatehouse-verdict"] == "unknown"
    assert text_of(checked) != text_of(plain)
    # The answer that nobody saw is named and counted.
    spent, both = plain.json()["usage"], checked.json()["usage"]
    assert checked.headers["x-gatehouse-cascade-usage"] == (
        f"demo-20b;in={spent['prompt_tokens']};out={spent['completion_tokens']}"
    )
    assert both["prompt_tokens"] > spent["prompt_tokens"]
    assert both["completion_tokens"] > spent["completion_tokens"]


def test_what_the_smaller_model_knows_is_not_asked_again(stack: Stack) -> None:
    kept = ask(stack, "kept", FACT, **{"x-gatehouse-cascade": "true"})
    assert (kept.headers["x-gatehouse-cascade"], kept.headers["x-gatehouse-tier"]) == ("kept", "20b")
    assert "Paris" in text_of(kept)
    assert "x-gatehouse-cascade-usage" not in kept.headers


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
        [sys.executable, "-m", "serve_app", "router", "live", "--base-url", f"{stack.url}/v1", "--count", "24",
         "--out", str(tmp_path)],
        env={**os.environ, "GATEHOUSE_KEY": stack.key}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = {line["way"]: line for line in json.loads((tmp_path / "live.json").read_text())}
    weak, strong, cascade = (lines[way] for way in ("always weak", "always strong", "router and cascade"))
    assert (weak["strong_share"], strong["strong_share"]) == (0.0, 1.0)
    assert strong["accuracy"] > weak["accuracy"]
    # It recovers most of the gap, and asks the larger model for the answers that failed, a third of them, alone.
    assert cascade["accuracy"] > weak["accuracy"]
    assert cascade["recovered"] > 0.5
    assert cascade["cascades"]["escalated"] >= 6
    assert cascade["cascades"]["kept"] >= 12
    assert 0 < cascade["strong_share"] <= 0.5
    # Both attempts are paid for.
    assert cascade["tokens"] > weak["tokens"]
    assert "| router and cascade |" in done.stdout
