"""Whether an incident's alerts fire: asked of a Prometheus that watches Gatehouse, or of promtool over a recording.

The recording is of the running server's own `/metrics`, a sample a second. promtool evaluates the shipped rules over
it, unchanged, in time lapse: so many seconds pass for each that was recorded, or nobody would wait for alerts that look
back over hours. What that shows is that the failure reaches the metrics and that the rules understand them. How long
the alert takes in earnest, a Prometheus shows.
"""

import math
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import httpx2
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serve_app.drills.acting import DrillRefused
from serve_app.drills.rules import Rules
from serve_app.prometheus import PrometheusApi, PrometheusSilent

_PROMTOOL_S = 120.0
_SCRAPE_S = 3.0
_STEP_S = 1.0
_COUNTS = ("_total", "_count", "_bucket", "_sum")
Series = tuple[str, tuple[tuple[str, str], ...]]


class Watch(Protocol):
    """Something that knows which alerts of the incident fire."""

    @property
    def how(self) -> str:
        """In what way it knows, for the report."""
        ...

    def firing(self) -> Set[str]:
        """The names of the incident's alerts that fire at this moment; `DrillRefused` when nobody can tell."""
        ...

    def __enter__(self) -> Self:
        """Begin to watch."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        ...


def watch_over(http: httpx2.Client, rules: Rules, prometheus: str | None, lapse_s: int) -> Watch:
    """The Prometheus at a URL, or promtool over a recording; `DrillRefused` when there is neither."""
    if prometheus is not None:
        return Prometheus(prometheus, rules)
    return Lapse(str(http.base_url).rstrip("/"), rules, lapse_s)


def can_watch() -> bool:
    """Whether promtool is there, so that no Prometheus need be named."""
    return shutil.which("promtool") is not None


# --- a Prometheus that somebody runs -----------------------------------------------------------------------------


class Prometheus:
    """The alerts of a Prometheus that scrapes this Gatehouse and has the shipped rules loaded."""

    def __init__(self, url: str, rules: Rules) -> None:
        self._api = PrometheusApi(url)
        self._rules = rules

    @property
    def how(self) -> str:
        """Where."""
        return f"Prometheus at {self._api.url}"

    def firing(self) -> Set[str]:
        """As Prometheus says."""
        alerts = cast(Sequence[Mapping[str, Any]], self._ask("alerts")["alerts"])
        return {
            str(each["labels"]["alertname"])
            for each in alerts
            if each["state"] == "firing" and each["labels"].get("incident") == self._rules.incident
        }

    def __enter__(self) -> Self:
        """Check that it has the rules."""
        groups = cast(Sequence[Mapping[str, Any]], self._ask("rules")["groups"])
        loaded = {str(rule["name"]) for group in groups for rule in group["rules"]}
        missing = sorted(self._rules.alerts.keys() - loaded)
        if missing:
            raise DrillRefused(f"{self.how} does not have the rules of {self._rules.incident}: {missing[0]} is missing")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        self._api.__exit__()

    def _ask(self, what: str) -> Mapping[str, Any]:
        try:
            return self._api.ask(what)
        except PrometheusSilent as error:
            raise DrillRefused(str(error)) from None


# --- a recording -------------------------------------------------------------------------------------------------


def read(text: str, wanted: Set[str]) -> dict[Series, float]:
    """The samples of a scrape whose names are wanted; `ValueError` for text that is no scrape."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in wanted
    }


class Recording:
    """Samples by the second. `None` is a scrape that failed: its series end there, as they do for Prometheus."""

    def __init__(self) -> None:
        self._steps: list[Mapping[Series, float] | None] = []
        self._last: dict[Series, float] = {}
        self._lock = threading.Lock()
        self.backwards: str | None = None
        """A count that went down although nothing was to restart it."""

    def add(self, step: int, found: Mapping[Series, float] | None) -> None:
        """The scrape of second `step`; seconds that were left out are taken as missed."""
        with self._lock:
            while len(self._steps) < step:
                self._steps.append({})
            for (name, labels), value in (found or {}).items():
                if name.endswith(_COUNTS) and value < self._last.get((name, labels), -math.inf):
                    self.backwards = name
                self._last[name, labels] = value
            self._steps.append(found)

    def document(self, files: Sequence[Path], lapse_s: int, expression: str) -> Mapping[str, Any]:
        """A test for promtool that holds when `expression` is 1 at the end of the recording."""
        with self._lock:
            steps = list(self._steps)
        series = sorted({key for step in steps if step for key in step})
        given = [{"series": _named(key), "values": _values(key, steps)} for key in series]
        check = {
            "expr": expression,
            "eval_time": f"{max(0, len(steps) - 1) * lapse_s}s",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        return {
            "rule_files": [str(file) for file in files],
            "evaluation_interval": f"{lapse_s}s",
            "tests": [{"interval": f"{lapse_s}s", "input_series": given, "promql_expr_test": [check]}],
        }


class Lapse:
    """The shipped rules over a recording of `/metrics`, evaluated by promtool in time lapse.

    `lapse_s`: how many seconds pass for each second that was recorded, at least 1.
    """

    def __init__(self, url: str, rules: Rules, lapse_s: int) -> None:
        program = shutil.which("promtool")
        if program is None:
            raise DrillRefused(
                "nobody can evaluate the alerts: install promtool (Debian: prometheus), or name a Prometheus that "
                "watches this Gatehouse with --prometheus"
            )
        self._program = program
        self._url = url
        self._rules = rules
        self._lapse_s = lapse_s
        self._recording = Recording()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._record, daemon=True)

    @property
    def how(self) -> str:
        """In what way."""
        return f"promtool over /metrics, a second counted as {self._lapse_s} s"

    def firing(self) -> Set[str]:
        """As promtool says, at the end of what was recorded."""
        if self._recording.backwards is not None:
            raise DrillRefused(
                f"{self._recording.backwards} of /metrics counts backwards: several ingress replicas answer here, or "
                "one was replaced. Name a Prometheus that scrapes each of them with --prometheus"
            )
        chosen = f'alertstate="firing",incident="{self._rules.incident}"'
        if not self._holds(f"count(ALERTS{{{chosen}}}) > bool 0"):
            return frozenset()
        return {
            name for name in self._rules.alerts if self._holds(f'count(ALERTS{{{chosen},alertname="{name}"}}) > bool 0')
        }

    def __enter__(self) -> Self:
        """Begin to record."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the recording."""
        self._over.set()
        self._thread.join(_SCRAPE_S + 1)

    def _record(self) -> None:
        began = time.perf_counter()
        with httpx2.Client(timeout=_SCRAPE_S) as http:
            while not self._over.is_set():
                step = int((time.perf_counter() - began) / _STEP_S)
                try:
                    text = http.get(f"{self._url}/metrics").raise_for_status().text
                    found = read(text, self._rules.metrics)
                except (httpx2.HTTPError, ValueError):
                    found = None
                self._recording.add(step, found)
                self._over.wait(max(0.0, (step + 1) * _STEP_S - (time.perf_counter() - began)))

    def _holds(self, expression: str) -> bool:
        document = self._recording.document(self._rules.files, self._lapse_s, expression)
        with tempfile.TemporaryDirectory(prefix="gatehouse-drill-") as folder:
            file = Path(folder) / "recorded.tests.yaml"
            file.write_text(yaml.safe_dump(document), encoding="utf-8")
            try:
                done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
                    (self._program, "test", "rules", str(file)), capture_output=True, check=False, text=True,
                    timeout=_PROMTOOL_S,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as error:
                raise DrillRefused(f"promtool did not evaluate the rules ({type(error).__name__})") from None
        if done.returncode != 0 and "got:" not in done.stdout + done.stderr:
            raise DrillRefused(
                f"promtool does not understand the recording: {(done.stderr or done.stdout).strip()[:300]}"
            )
        return done.returncode == 0


def _named(key: Series) -> str:
    name, labels = key
    inside = ",".join(f'{label}="{_quoted(value)}"' for label, value in labels)
    return f"{name}{{{inside}}}" if inside else name


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _values(key: Series, steps: Sequence[Mapping[Series, float] | None]) -> str:
    """The values of a series in promtool's notation."""
    said: list[str] = []
    there = False
    for step in steps:
        value = None if step is None else step.get(key)
        if value is not None:
            said.append(_number(value))
            there = True
        elif step is None and there:
            said.append("stale")
            there = False
        else:
            said.append("_")
    return " ".join(said)


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
