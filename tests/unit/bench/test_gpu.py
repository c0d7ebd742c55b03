"""The pure parts of the GPU suite: folders, arguments, the plan of runs, finite logits, tables."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.engine.options import engine_kwargs, frontend_kwargs
from serve_app.bench.gpu import (
    ARCHITECTURES,
    TARGETS,
    GpuResult,
    GpuSuite,
    GroupResult,
    cuda_device,
    finite_logits,
    gpu_suite,
    model_config,
    plan_lines,
    request_body,
    serve_document,
    settings_of,
    steps_of,
    suite_of,
    vllm_command,
    write_checkpoint,
)
from serve_app.bench.load import BenchRefused, Window
from serve_app.bench.stream import OK, Arrival, Sample
from serve_app.config import ROOT, parse_config

BOTH = GpuSuite(("20b", "120b"), streams=(1, 8))


def options(command: list[str]) -> dict[str, list[str]]:
    """The flags of a command line with their values."""
    found: dict[str, list[str]] = {}
    for word in command[3:]:
        if word.startswith("--"):
            found[word] = []
        else:
            found[list(found)[-1]].append(word)
    return found


def parameters(config: dict[str, Any]) -> float:
    """Parameters of a gpt-oss configuration, in billions; embedding and head included."""
    hidden, heads = config["hidden_size"], config["head_dim"]
    attention = hidden * heads * (2 * config["num_attention_heads"] + 2 * config["num_key_value_heads"])
    experts = config["num_local_experts"] * 3 * hidden * config["intermediate_size"]
    return (config["num_hidden_layers"] * (attention + experts) + 2 * config["vocab_size"] * hidden) / 1e9


@pytest.mark.parametrize(("tier", "billions"), [("20b", 20.9), ("120b", 116.8)])
def test_the_folders_hold_the_published_sizes(tier: str, billions: float, tmp_path: Path) -> None:
    write_checkpoint(ARCHITECTURES[tier], tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config == model_config(ARCHITECTURES[tier])
    assert parameters(config) == pytest.approx(billions, rel=0.01)
    assert len(config["layer_types"]) == config["num_hidden_layers"]
    assert config["layer_types"][:2] == ["sliding_attention", "full_attention"]
    stops = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert 200_012 in stops["eos_token_id"]
    assert (tmp_path / "model" / "tokenizer_config.json").is_file()


def test_words_of_the_command_line() -> None:
    suite = suite_of("120b, 20b,20b", "1,32", 4, 3, 512, 64)
    assert suite == GpuSuite(("120b", "20b"), (1, 32), 4, 3, 512, 64)
    for models, streams in (("7b", "1"), ("", "1"), ("20b", "x"), ("20b", "0"), ("20b", "5000"), ("20b", "")):
        with pytest.raises(BenchRefused):
            suite_of(models, streams, 1, 1, 1, 2)


def test_every_model_alone_then_both_and_the_servers_take_turns() -> None:
    steps = steps_of(BOTH)
    assert BOTH.groups == (("20b",), ("120b",), ("20b", "120b"))
    assert [step.target for step in steps if step.tiers == ("20b",)] == ["vllm", "gatehouse", "gatehouse", "vllm"]
    assert len(steps) == 3 * 2 * 2
    assert GpuSuite(("20b",)).groups == (("20b",),)


def test_both_servers_get_the_same_engine_arguments(tmp_path: Path) -> None:
    settings = settings_of(BOTH, "120b", tmp_path)
    given = options(vllm_command(settings, 8123))
    assert given["--port"] == ["8123"]
    assert given["--host"] == ["127.0.0.1"]
    assert given["--load-format"] == ["dummy"]
    assert given["--served-model-name"] == ["gpt-oss-120b"]
    assert given["--no-enable-log-requests"] == []
    assert "--tool-server" not in given
    names = {name.replace("_", "-") for name in (engine_kwargs(settings) | frontend_kwargs(settings))}
    spelled = {flag.removeprefix("--").removeprefix("no-") for flag in given} | {"tool-server"}
    assert spelled == names | {"host", "port"}


@pytest.mark.parametrize("tiers", [("20b",), ("120b",), ("20b", "120b")])
def test_gatehouses_configuration_is_valid_and_says_the_same(tiers: tuple[str, ...], tmp_path: Path) -> None:
    base = yaml.safe_load((ROOT / "configs" / "serve.local.yaml").read_text())
    document = serve_document(base, BOTH, tiers, tmp_path, 8124)
    app = parse_config(yaml.safe_load(yaml.safe_dump(document))["applications"][0]["args"], "test")
    assert app.device == "cuda"
    assert [model.engine for model in app.models] == [settings_of(BOTH, tier, tmp_path) for tier in tiers]
    assert document["http_options"]["port"] == 8124


def test_both_models_fit_beside_each_other_on_one_card() -> None:
    assert sum(each.share for each in ARCHITECTURES.values()) < 0.95


def test_prompts_are_token_ids_that_no_two_requests_share() -> None:
    one, two = request_body(BOTH, "m", 1), request_body(BOTH, "m", 2)
    assert one == request_body(BOTH, "m", 1)
    assert one["prompt"][:4] != two["prompt"][:4]
    assert len(one["prompt"]) == BOTH.prompt_tokens
    assert max(one["prompt"]) < 199_998  # no special token
    assert one["ignore_eos"] is True


def completion(chosen: list[Any], tops: list[dict[str, Any]]) -> dict[str, Any]:
    return {"choices": [{"logprobs": {"token_logprobs": chosen, "top_logprobs": tops}}]}


@pytest.mark.parametrize(
    ("reply", "finite"),
    [
        (completion([-1.0, -2.0], [{"a": -1.0, "b": -3.0}]), True),
        (completion([-1.0, None], [{"a": -1.0}]), False),
        (completion([-1.0, math.nan], [{"a": -1.0}]), False),
        (completion([-1.0, -9999.0], [{"a": -1.0}]), False),
        (completion([-2.0, -2.0], [{"a": -2.0, "b": -2.0}]), False),
        (completion([1.0, -2.0], [{}]), False),
        (completion([], []), False),
        ({"choices": [{"logprobs": None}]}, False),
        ({"choices": []}, False),
        ({}, False),
    ],
)
def test_only_real_numbers_are_finite_logits(reply: dict[str, Any], finite: bool) -> None:
    assert finite_logits(reply) is finite


def test_without_a_device_one_sentence_and_nothing_starts(tmp_path: Path) -> None:
    nowhere = {"PATH": str(tmp_path)}
    with pytest.raises(BenchRefused, match="no CUDA device"):
        cuda_device(nowhere)
    with pytest.raises(BenchRefused, match="no CUDA device"):
        gpu_suite(BOTH, tmp_path, nowhere, print)
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_named_by_the_drivers_own_tool(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'A Card, 143771 MiB'\n")
    tool.chmod(0o755)
    assert cuda_device({"PATH": str(tmp_path)}) == "A Card, 143771 MiB"
    tool.write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(BenchRefused):
        cuda_device({"PATH": str(tmp_path)})


def test_the_plan_can_be_read_before_anything_runs(tmp_path: Path) -> None:
    lines = list(plan_lines(BOTH, tmp_path))
    assert lines[0] == "round 1: vllm with gpt-oss-20b, streams 1, 8"
    assert sum("--load-format dummy" in line for line in lines) == 2


def window(ttft_s: float, gap_s: float) -> Window:
    arrivals = tuple(Arrival(ttft_s + gap_s * number, 1) for number in range(11))
    sample = Sample(OK, 200, 0.0, ttft_s, arrivals[-1].at_s, arrivals, 12, 64, 11)
    return Window((sample, sample), wall_s=2 * arrivals[-1].at_s, client_cpu_s=0.01)


def result(finite: bool) -> GpuResult:
    windows = {
        "vllm": {1: (window(0.1, 0.01),), 8: (window(0.2, 0.02),)},
        "gatehouse": {1: (window(0.11, 0.0101),), 8: (window(0.21, 0.02),)},
    }
    group = GroupResult(("20b",), windows, {"vllm": True, "gatehouse": finite})
    return GpuResult("A Card", {"cpu": "x"}, replace(BOTH, tiers=("20b",)), [group])


def test_figures_and_ratios_reach_the_table_and_the_file() -> None:
    text = "\n".join(result(True).table())
    assert "| 1 | vllm | 100.0 |" in text
    assert "| 1 | ratio | x1.100 |" in text
    assert "Logits finite: yes." in text
    data = json.loads(json.dumps(result(True).to_json()))
    (group,) = data["groups"]
    assert [level["streams"] for level in group["levels"]] == [1, 8]
    assert group["levels"][0]["ratios"]["ITL p50"] == pytest.approx(1.01)
    assert set(group["levels"][0]["figures"]) == set(TARGETS)


def test_logits_that_are_not_finite_are_said_above_the_figures() -> None:
    assert "NO for gatehouse" in "\n".join(result(False).table())
    assert result(False).to_json()["groups"][0]["finite_logits"] == {"vllm": True, "gatehouse": False}
