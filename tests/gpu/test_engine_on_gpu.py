"""The adapter on a CUDA device, with a demonstration checkpoint: the first thing to run where a GPU is at hand."""

import json
import os
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path

import pytest

from deployments.clock import SystemClock
from deployments.engine.options import EngineSettings, replica_env
from deployments.engine.replica import EngineReplica
from deployments.ports import EngineCall, EngineStart, RequestId, SessionId
from serve_app.config import ROOT, load_serve_file
from serve_app.prepare import prepare, vocabulary_dir


def no_gpu() -> str | None:
    """Why these tests cannot run here, or None."""
    if find_spec("torch") is None:
        return "torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return f"no CUDA device (torch {torch.__version__})"
    return None


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(900),
    pytest.mark.skipif((reason := no_gpu()) is not None, reason=f"GPU tests: {reason}"),
]


async def test_a_demonstration_checkpoint_answers_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.engine.adapter import VLLM

    monkeypatch.chdir(ROOT)
    config = load_serve_file(Path("configs/serve.local.yaml")).app
    source = prepare(config)["demo-20b"]
    settings = EngineSettings(
        model="demo-20b", revision="gpu-test", source=source, dtype="bfloat16", max_model_len=4096, max_num_seqs=8,
        gpu_memory_utilization=0.2,
    )  # fmt: skip
    for name, value in replica_env(settings, str(vocabulary_dir(config)), "cuda").items():
        monkeypatch.setenv(name, value)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in replica_env(settings, None, "cuda")
    core, started_s = await VLLM.start(settings, SystemClock(), ray_metrics=False)
    try:
        replica = EngineReplica(core, settings, SystemClock(), started_s)
        body = {"model": "demo-20b", "messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}
        call = EngineCall(
            "/v1/chat/completions", {"content-type": "application/json"}, json.dumps(body).encode(), RequestId("r1"),
            SessionId("s1"),
        )  # fmt: skip
        answer = b""
        async with aclosing(replica.call(call)) as items:
            async for item in items:
                if isinstance(item, EngineStart):
                    assert item.status == 200
                elif isinstance(item, bytes):
                    answer += item
        assert "demo-20b" in json.loads(answer)["choices"][0]["message"]["content"]
        assert (await replica.info()).running == 0
        assert os.getpid() not in core.pids()
    finally:
        core.shutdown()
