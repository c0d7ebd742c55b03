"""Ray Serve LLM's stock app in the foreground, for `gatehouse bench compare`: `python ray_llm_app.py SETTINGS.json`.

A script of its own because `ray.serve.llm` needs pyarrow, which Gatehouse does not: it runs under an interpreter that
has it. Everything but the model and its engine arguments is Ray's default. It ends on SIGINT or SIGTERM.
"""

import importlib
import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, cast

READY = "the stock app is ready"


def main(settings_file: str) -> None:
    """Serve until a signal. Settings: host, port, model, source, engine_kwargs, env, num_cpus."""
    settings = cast(dict[str, Any], json.loads(Path(settings_file).read_text(encoding="utf-8")))
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    ray: Any = importlib.import_module("ray")
    serve: Any = importlib.import_module("ray.serve")
    llm: Any = importlib.import_module("ray.serve.llm")
    config = llm.LLMConfig(
        model_loading_config={"model_id": settings["model"], "model_source": settings["source"]},
        engine_kwargs=settings["engine_kwargs"],
        accelerator_config={"kind": "cpu"},
        deployment_config={"num_replicas": 1},
        runtime_env={"env_vars": settings["env"]},
    )
    ray.init(
        address="local", num_cpus=settings["num_cpus"], include_dashboard=False, log_to_driver=False, namespace="serve"
    )
    try:
        serve.start(http_options={"host": settings["host"], "port": settings["port"]})
        serve.run(llm.build_openai_app({"llm_configs": [config]}), name="ray-llm", route_prefix="/")
        print(READY, flush=True)
        stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
