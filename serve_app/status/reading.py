"""Asks a running Gatehouse, and a Prometheus if there is one, for the facts. Any question may stay unanswered."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import httpx2

from serve_app.backups.last import LAST_FILE
from serve_app.prometheus import PrometheusApi, PrometheusSilent
from serve_app.status.facts import (
    AuditFacts,
    Burn,
    Facts,
    Firing,
    Kept,
    Maybe,
    Replica,
    RolloutFacts,
    Running,
    Unseen,
)
from serve_app.status.scrape import Scrape

NO_ANSWER: Final = Unseen("Gatehouse does not answer")
_WELL: Final = 200
_RULES: Final = "Gatehouse"
_PRESENT: Final = "count(gatehouse_audit_up)"
_SYSTEM: Final = "system"
_PAGE: Final = 10_000
_PAGES: Final = 10
_MOST: Final = 1_000
_ENDED: Final = frozenset({"finished", "rolled_back"})
T = TypeVar("T")


class Reader:
    """Questions to one server with one key; `key` None: only what needs none."""

    def __init__(self, http: httpx2.Client, key: str | None) -> None:
        self._http = http
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}

    def facts(self, now_ms: int, prometheus: str | None, state: Path) -> Facts:
        """Everything. `state` is the state directory, which is looked into when it is on this machine."""
        health = self._health()
        alive = health == _WELL
        scrape = self._scrape() if alive else NO_ANSWER
        audit = self._audit(scrape)
        watched = _watched(prometheus)
        return Facts(
            url=str(self._http.base_url).rstrip("/"),
            now_ms=now_ms,
            alive=alive,
            parts=self._parts() if alive else NO_ANSWER,
            engines=self._engines() if alive else NO_ANSWER,
            tiers=scrape if isinstance(scrape, Unseen) else scrape.tiers(),
            served=scrape if isinstance(scrape, Unseen) else scrape.served(),
            burn=watched if isinstance(watched, Unseen) else self._burn(prometheus),
            budgets=scrape if isinstance(scrape, Unseen) else scrape.budgets(),
            queue=scrape if isinstance(scrape, Unseen) else scrape.queue(),
            canary=scrape if isinstance(scrape, Unseen) else scrape.canary(),
            audit=audit,
            rollouts=self._rollouts() if alive else NO_ANSWER,
            alerts=watched if isinstance(watched, Unseen) else self._alerts(prometheus),
            running=self._running(audit) if alive else NO_ANSWER,
            backup=kept(state, "backup"),
            restored=kept(state, "restore drill"),
            odd=None if alive else health,
        )

    # --- Gatehouse -------------------------------------------------------------------------------------------------

    def _health(self) -> int | None:
        """The status of the answer; None: there was none."""
        try:
            return self._http.get("/healthz").status_code
        except httpx2.HTTPError:
            return None

    def _parts(self) -> Maybe[Mapping[str, str]]:
        found = self._json("/readyz", fine=(200, 503))
        return _taken(found, lambda told: {str(name): str(state) for name, state in told["parts"].items()})

    def _scrape(self) -> Maybe[Scrape]:
        try:
            reply = self._http.get("/metrics")
            return Scrape(reply.text) if reply.is_success else Unseen(f"/metrics answered {reply.status_code}")
        except (httpx2.HTTPError, ValueError) as error:
            return Unseen(f"/metrics cannot be read ({type(error).__name__})")

    def _engines(self) -> Maybe[Sequence[Replica]]:
        def replicas(found: Mapping[str, Any]) -> Sequence[Replica]:
            return [
                Replica(
                    model=str(row["model"]),
                    state=str(row["state"]),
                    revision=str(row.get("revision", "")),
                    kind=str(row.get("kind", "")),
                    running=int(row.get("running", 0)),
                    queued_tokens=int(row.get("queued_tokens", 0)),
                )
                for row in found["data"]
            ]

        return _taken(self._json("/v1/admin/engines"), replicas)

    def _audit(self, scrape: Maybe[Scrape]) -> Maybe[AuditFacts]:
        """From the scrape; what is wrong in words needs a key that may read the log."""
        found = scrape if isinstance(scrape, Unseen) else scrape.audit()
        if isinstance(found, Unseen):
            return found
        better = _taken(self._json("/v1/audit/status"), lambda told: self._said(found, told))
        return found if isinstance(better, Unseen) else better

    @staticmethod
    def _said(found: AuditFacts, told: Mapping[str, Any]) -> AuditFacts:
        said = [str(each) for each in (told["failure"], *told["problems"]) if each is not None]
        return AuditFacts(
            up=found.up,
            records=int(told["size"]),
            backlog=found.backlog,
            dropped=found.dropped,
            unsealed=int(told["unsealed"]),
            checkpoint_late_s=float(told["unsealed_s"]),
            disk_free_bytes=int(told["disk_free_bytes"]),
            witnesses=int(told["witnesses"]),
            witness_age_s=told["witnessed_age_s"],
            witness_stale=bool(told["witness_stale"]),
            export_age_s=told["exported_age_s"],
            problems=said,
            exported=told.get("exported_size") is not None,
        )

    def _rollouts(self) -> Maybe[Sequence[RolloutFacts]]:
        def under_way(found: Mapping[str, Any]) -> Sequence[RolloutFacts]:
            return [
                RolloutFacts(
                    rollout_id=str(row["id"]),
                    target=str(row["target"]),
                    state=str(row["state"]),
                    share_percent=int(row["share_percent"]),
                    held=bool(row["held"]),
                    going_back=bool(row["going_back"]),
                )
                for row in found["data"]
                if row["state"] not in _ENDED
            ]

        return _taken(self._json("/v1/admin/rollouts"), under_way)

    def _running(self, audit: Maybe[AuditFacts]) -> Maybe[Running]:
        """What the newest `config.loaded` says, which each ingress replica records when it starts."""
        if isinstance(audit, Unseen):
            return audit
        end = audit.records
        for _ in range(_PAGES):
            begin = max(0, end - _PAGE)
            found = self._started(begin, end)
            if found is not None:
                return found
            if begin == 0:
                break
            end = begin
        return Unseen("no start is among the last records of the log")

    def _started(self, begin: int, end: int) -> Maybe[Running] | None:
        """The newest start among these records; None: there is none. All are read: the newest stand at the end."""
        newest: Running | None = None
        at: int | None = begin
        while at is not None and at < end:
            page = self._json(f"/v1/audit/records?tenant={_SYSTEM}&limit={_MOST}&begin={at}")
            seen = _taken(
                page, lambda told: (_start(told["data"]), None if told["next"] is None else int(told["next"]))
            )
            if isinstance(seen, Unseen):
                return seen
            newest, at = seen[0] or newest, seen[1]
        return newest

    def _json(self, path: str, fine: Sequence[int] = (200,)) -> Maybe[Mapping[str, Any]]:
        try:
            reply = self._http.get(path, headers=self._headers)
        except httpx2.HTTPError as error:
            return Unseen(f"no answer ({type(error).__name__})")
        try:
            found: Any = reply.json()
        except ValueError:
            return Unseen(f"it answered {reply.status_code}, not in JSON")
        if reply.status_code in fine and isinstance(found, dict):
            return cast(Mapping[str, Any], found)
        if reply.status_code == 404:
            return Unseen("not configured")
        if reply.status_code in (401, 403):
            return Unseen("needs a key" if not self._headers else "this key may not see it")
        return Unseen(f"it answered {reply.status_code}")

    # --- Prometheus ------------------------------------------------------------------------------------------------

    def _alerts(self, prometheus: str | None) -> Maybe[Sequence[Firing]]:
        def firing(found: Mapping[str, Any]) -> Sequence[Firing]:
            return [
                Firing(
                    name=str(each["labels"]["alertname"]),
                    severity=str(each["labels"].get("severity", "")),
                    incident=each["labels"].get("incident"),
                    summary=str(each["annotations"].get("summary", "")),
                )
                for each in found["alerts"]
                if each["state"] == "firing"
            ]

        return _taken(_asked(prometheus, lambda api: api.ask("alerts")), firing)

    def _burn(self, prometheus: str | None) -> Maybe[Burn]:
        scraped = _taken(_asked(prometheus, lambda api: api.query(_PRESENT)), _number)
        if isinstance(scraped, Unseen):
            return scraped
        if math.isnan(scraped):
            return Unseen("Prometheus scrapes no ingress replica")
        values: list[float | None] = []
        for name in ("failed:ratio_rate1h", "failed:ratio_rate3d", "slow:ratio_rate1h", "slow:ratio_rate3d"):
            value = _taken(_asked(prometheus, lambda api, name=name: api.query(f"gatehouse:{name}")), _number)
            if isinstance(value, Unseen):
                return value
            values.append(None if math.isnan(value) else value)
        return Burn(*values)


def _start(rows: Sequence[Mapping[str, Any]]) -> Running | None:
    for row in reversed(rows):
        if row["record"]["name"] == "config.loaded":
            said = row["record"]["data"]
            return Running(
                version=str(said["version"]),
                profile=str(said["profile"]),
                config_digest=str(said["config_digest"]),
                policy_digest=str(said.get("policy_digest") or row["record"].get("policy_digest") or ""),
                since_ms=int(row["record"]["at_ms"]),
            )
    return None


def _number(found: Mapping[str, Any]) -> float:
    """The one value of an instant query; NaN: there is none."""
    rows = cast(Sequence[Mapping[str, Any]], found["result"])
    return float(rows[0]["value"][1]) if rows else math.nan


def _watched(prometheus: str | None) -> Unseen | None:
    """Why this Prometheus can say nothing of Gatehouse: where nobody evaluates its rules, none of them fires."""

    def names(found: Mapping[str, Any]) -> Sequence[str]:
        return [str(rule["name"]) for group in found["groups"] for rule in group["rules"]]

    loaded = _taken(_asked(prometheus, lambda api: api.ask("rules")), names)
    if isinstance(loaded, Unseen):
        return loaded
    return None if any(name.startswith(_RULES) for name in loaded) else Unseen("Prometheus has no rules of Gatehouse")


def _taken(found: Maybe[Mapping[str, Any]], take: Callable[[Mapping[str, Any]], T]) -> Maybe[T]:
    """What `take` finds in an answer; whoever else sits at that address answers other things."""
    if isinstance(found, Unseen):
        return found
    try:
        return take(found)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return Unseen("its answer is not Gatehouse's")


def _asked(url: str | None, question: Callable[[PrometheusApi], Mapping[str, Any]]) -> Maybe[Mapping[str, Any]]:
    if url is None:
        return Unseen("no --prometheus was named")
    try:
        with PrometheusApi(url) as api:
            return question(api)
    except PrometheusSilent as error:
        return Unseen(str(error))


def kept(state: Path, what: str) -> Maybe[Kept]:
    """What `gatehouse backup` or `gatehouse drill restore` noted in a state directory that is on this machine."""
    file = state / LAST_FILE
    if not state.is_dir():
        return Unseen(f"the state directory {state} is not on this machine")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))[what]
        return Kept(int(found["at_ms"]), str(found["where"]), bool(found["good"]))
    except (FileNotFoundError, KeyError):
        return Unseen("none is on record here")
    except (OSError, ValueError, TypeError):
        return Unseen(f"{file} cannot be read")
