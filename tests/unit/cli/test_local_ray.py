"""What becomes of a Ray that does not come up, without one."""

import pytest
import ray
from ray import serve

from deployments import _local


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        del options
        raise Exception("The current node timed out during startup.\nThis could be anything.")

    monkeypatch.setattr(_local, "_without_reporter", lambda: None)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match=r"^The current node timed out during startup\.$"):
        _local.start("127.0.0.1", 1, 1)


def test_stopping_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(serve, "shutdown", lambda: called.append("serve"))
    monkeypatch.setattr(ray, "shutdown", lambda: called.append("ray"))
    _local.stop()
    assert called == ["ray"]
