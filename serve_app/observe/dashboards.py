"""The dashboards in `configs/dashboards/`, written by `gatehouse manifests generate`.

Each question that someone on call asks is one panel; `tests/manifests/test_dashboards.py` checks that every query
parses and that everything it names is exported.
"""

from collections.abc import Mapping
from typing import Final

from serve_app.observe.panels import Board, Query, lines, rendered, stat

FAILED: Final = 'code=~"server_is_overloaded|upstream_error|timeout|internal_error|audit_.*|gate_unavailable"'
"""Codes that are our failure, whatever status a dialect makes of them. `configs/alerts` says the same."""

MODEL_API: Final = 'dialect!="other"'
ASKED: Final = f'sum(rate(gatehouse_requests_total{{{MODEL_API},status!="stream"}}[5m]))'
"""Requests a second; what broke off after its 200 was counted with it already."""


def _per_second(metric: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}[5m]))"


def _quantile(share: float, metric: str, *by: str) -> str:
    return f"histogram_quantile({share}, sum by ({', '.join(('le', *by))}) (rate({metric}_bucket[5m])))"


def _share(part: str, whole: str) -> str:
    return f"{part} / {whole}"


_ON_CALL = Board(
    "on-call",
    "Gatehouse: on call",
    (
        stat("Requests a second", ASKED),
        stat("Failed", _share(f"sum(rate(gatehouse_requests_total{{{MODEL_API},{FAILED}}}[5m]))", ASKED),
             "percentunit", 0.01, "Share of requests that ended by a failure of ours."),
        stat("First token, p95", _quantile(0.95, "gen_ai_server_time_to_first_token_seconds"), "s", 10),
        stat("Audit log down", "1 - max(gatehouse_audit_up)", bad=1),
        stat("Canary escaped", "max(gatehouse_gate_canary_escaped)", bad=1),
        stat("Oldest approval", "max(gatehouse_approvals_oldest_seconds)", "s", 900),
        stat("Tiers down", "sum(1 - max by (tier) (gatehouse_tier_up))", bad=1),
        stat("Ledger down", "1 - max(gatehouse_ledger_up)", bad=1),
        stat("Keys frozen", "max(gatehouse_approvals_frozen)", bad=1),
        stat("Audit events lost", "sum(increase(gatehouse_audit_dropped_events[1h]))", bad=1),
        stat("Budgets spent", "count(max by (budget) (gatehouse_budget_used_ratio) >= 1) or vector(0)", bad=1),
        stat("Canary's age", "time() - min(gatehouse_gate_canary_timestamp_seconds)", "s", 120),
        lines("Requests by dialect", Query(_per_second("gatehouse_requests_total", "dialect"), "{{dialect}}"),
              unit="reqps"),
        lines("Failures by code", Query(_per_second(f"gatehouse_requests_total{{{FAILED}}}", "code"), "{{code}}"),
              unit="reqps"),
        lines("Refusals by code",
              Query(_per_second(f'gatehouse_requests_total{{code!="",{FAILED.replace("=~", "!~")}}}', "code"),
                    "{{code}}"), unit="reqps"),
        lines("First token", *(Query(_quantile(share, "gen_ai_server_time_to_first_token_seconds", "model"),
                                     f"p{share * 100:g} {{{{model}}}}") for share in (0.5, 0.95)), unit="s"),
        lines("Between tokens", *(Query(_quantile(share, "gen_ai_server_time_per_output_token_seconds", "model"),
                                        f"p{share * 100:g} {{{{model}}}}") for share in (0.5, 0.95)), unit="s",
              text="Streams as clients see them: waiting for approvals is part of it."),
        lines("Whole answer", *(Query(_quantile(share, "gen_ai_server_request_duration_seconds", "model"),
                                      f"p{share * 100:g} {{{{model}}}}") for share in (0.5, 0.95)), unit="s"),
        lines("Our own part of an answer", *(Query(_quantile(share, "gatehouse_overhead_seconds", "dialect"),
                                                   f"p{share * 100:g} {{{{dialect}}}}") for share in (0.5, 0.99)),
              unit="s", text="The time in which no call of an engine was open."),
        lines("How answers ended", Query(_per_second("gatehouse_stream_end_total", "outcome"), "{{outcome}}"),
              unit="reqps"),
        lines("Tokens a second", Query(_per_second("gen_ai_client_token_usage_total", "model", "kind"),
                                       "{{model}} {{kind}}")),
    ),
)  # fmt: skip

_ENGINES = Board(
    "engines",
    "Gatehouse: engines",
    (
        lines("Waiting for a seat", Query("sum by (model, priority) (ray_gatehouse_queue_waiting)",
                                          "{{model}} {{priority}}")),
        lines("Wait for a seat, p95", Query(_quantile(0.95, "ray_gatehouse_queue_seconds", "model", "priority"),
                                            "{{model}} {{priority}}"), unit="s"),
        lines("Refused by a full queue", Query(_per_second("ray_gatehouse_queue_refused_total", "model"), "{{model}}"),
              unit="reqps"),
        lines("From a hang-up to the engine's rest, p95",
              Query(_quantile(0.95, "ray_gatehouse_abort_seconds", "model"), "{{model}}"), unit="s"),
        lines("Tiers that are up", Query("max by (tier) (gatehouse_tier_up)", "{{tier}}"),
              Query("max by (tier) (gatehouse_tier_cold)", "{{tier}} cold"),
              Query("max by (tier) (gatehouse_tier_full)", "{{tier}} full")),
        lines("Queue over its limit", Query("max by (tier) (gatehouse_tier_pressure)", "{{tier}}"),
              unit="percentunit"),
        lines("Unfinished calls", Query("sum by (tier) (gatehouse_tier_in_flight)", "{{tier}}")),
        lines("Usual answer", Query("max by (tier) (gatehouse_tier_answer_seconds)", "{{tier}}"), unit="s"),
        lines("vLLM: requests", Query("sum by (model_name) (ray_vllm_num_requests_running)", "{{model_name}} running"),
              Query("sum by (model_name) (ray_vllm_num_requests_waiting)", "{{model_name}} waiting")),
        lines("vLLM: KV cache in use", Query("max by (model_name) (ray_vllm_kv_cache_usage_perc)", "{{model_name}}"),
              unit="percentunit"),
        lines("vLLM: tokens a second", Query(_per_second("ray_vllm_prompt_tokens_total", "model_name"),
                                             "{{model_name}} prompt"),
              Query(_per_second("ray_vllm_generation_tokens_total", "model_name"), "{{model_name}} answer")),
        lines("vLLM: first token, p95", Query(_quantile(0.95, "ray_vllm_time_to_first_token_seconds", "model_name"),
                                              "{{model_name}}"), unit="s"),
        lines("vLLM: between tokens, p95",
              Query(_quantile(0.95, "ray_vllm_inter_token_latency_seconds", "model_name"), "{{model_name}}"),
              unit="s"),
        lines("vLLM: whole answer, p95", Query(_quantile(0.95, "ray_vllm_e2e_request_latency_seconds", "model_name"),
                                               "{{model_name}}"), unit="s"),
        lines("vLLM: prefix cache", Query(_share(_per_second("ray_vllm_prefix_cache_hits_total", "model_name"),
                                                 _per_second("ray_vllm_prefix_cache_queries_total", "model_name")),
                                          "{{model_name}}"), unit="percentunit"),
        lines("vLLM: preemptions", Query(_per_second("ray_vllm_num_preemptions_total", "model_name"),
                                         "{{model_name}}"), text="The KV cache is too small for what runs."),
        lines("Rollouts: share of the new revision",
              Query("max by (kind, model) (gatehouse_rollout_share_ratio)", "{{kind}} {{model}}"), unit="percentunit"),
        lines("Rollouts: in this stage for",
              Query("max by (kind, model, state) (gatehouse_rollout_stage_age_seconds)",
                    "{{kind}} {{model}} {{state}}"), unit="s"),
        lines("Rollouts: need somebody",
              Query("max by (kind, model) (gatehouse_rollout_held)", "{{kind}} {{model}} held"),
              Query("max by (kind, model) (gatehouse_rollout_going_back)", "{{kind}} {{model}} not on record yet"),
              Query("1 - max(gatehouse_rollout_up)", "controller down")),
        lines("Rollouts: ended", Query("max by (outcome) (gatehouse_rollout_ended)", "{{outcome}}")),
        lines("Serve: healthy replicas", Query("sum by (deployment) (ray_serve_deployment_replica_healthy)",
                                               "{{deployment}}")),
        lines("Serve: state of deployments", Query("min by (deployment) (ray_serve_deployment_status)",
                                                   "{{deployment}}"),
              text="6 healthy, 5 fewer replicas, 4 more, 3 an update; 2 unhealthy, 1 not deployed."),
        lines("Serve: failed health checks", Query(_per_second("ray_serve_health_check_failures_total", "deployment"),
                                                   "{{deployment}}")),
        lines("Serve: requests", Query("sum by (deployment) (ray_serve_num_ongoing_requests_at_replicas)",
                                       "{{deployment}} under way"),
              Query("sum by (deployment) (ray_serve_deployment_queued_queries)", "{{deployment}} queued")),
        lines("GPU: busy", Query("avg by (Hostname, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "{{Hostname}} {{gpu}}"),
              unit="percentunit"),
        lines("GPU: memory", Query("DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)",
                                   "{{Hostname}} {{gpu}}"), unit="percentunit"),
        lines("GPU: temperature", Query("max by (Hostname, gpu) (DCGM_FI_DEV_GPU_TEMP)", "{{Hostname}} {{gpu}}"),
              unit="celsius"),
        lines("GPU: power", Query("sum by (Hostname) (DCGM_FI_DEV_POWER_USAGE)", "{{Hostname}}"), unit="watt"),
        lines("GPU: XID errors", Query("max by (Hostname, gpu) (DCGM_FI_DEV_XID_ERRORS)", "{{Hostname}} {{gpu}}")),
    ),
)  # fmt: skip

_ROUTING = Board(
    "routing",
    "Gatehouse: routing and quality",
    (
        lines("Decisions by tier", Query(_per_second("gatehouse_route_decisions_total", "tier", "mode"),
                                         "{{tier}} {{mode}}"), unit="reqps"),
        lines("Decisions by reason", Query(_per_second("gatehouse_route_decisions_total", "reason"), "{{reason}}"),
              unit="reqps"),
        lines("Effort", Query(_per_second("gatehouse_route_total", "tier", "effort"), "{{tier}} {{effort}}"),
              unit="reqps"),
        lines("Time of a decision", *(Query(_quantile(share, "gatehouse_route_seconds"), f"p{share * 100:g}")
                                      for share in (0.5, 0.99)), unit="s"),
        lines("Not decided", Query(_per_second("gatehouse_route_failed_total", "code"), "failed {{code}}"),
              Query(_per_second("gatehouse_route_held_total", "hold"), "held {{hold}}"),
              Query("sum(rate(gatehouse_route_hand_over_total[5m]))", "handed to a human"), unit="reqps"),
        lines("Changed file not in force", Query("max by (part) (gatehouse_route_refused)", "{{part}}")),
        lines("Share of the large tier",
              Query(_share('sum(rate(gatehouse_route_eligible_total{tier="120b"}[30m]))',
                           "sum(rate(gatehouse_route_eligible_total[30m]))"), "is"),
              Query(_share("sum(rate(gatehouse_route_target_total[30m]))",
                           "sum(rate(gatehouse_route_eligible_total[30m]))"), "aim"), unit="percentunit"),
        lines("Watching snapshot", Query(_per_second("gatehouse_route_shadow_total", "task", "agrees"),
                                         "{{task}} agrees: {{agrees}}"),
              Query(_per_second("gatehouse_route_abstained_total", "why"), "says nothing: {{why}}")),
        lines("Verdicts", Query(_per_second("gatehouse_feedback_total", "verdict", "source"),
                                "{{verdict}} by {{source}}")),
        lines("Cascades", Query(_per_second("gatehouse_cascade_total", "word"), "{{word}}"),
              Query(_per_second("gatehouse_cascade_second_total", "outcome"), "second: {{outcome}}"),
              Query(_per_second("gatehouse_cascade_abandoned_total", "model"), "not sent: {{model}}")),
        lines("Repaired output", Query("sum(rate(gatehouse_harmony_recover_total[5m]))", "repairs"),
              text="Malformed output of models that had to be mended."),
    ),
)  # fmt: skip

_EVIDENCE = Board(
    "evidence",
    "Gatehouse: gate, approvals and audit",
    (
        lines("Verdicts on tool calls", Query(_per_second("gatehouse_policy_total", "risk", "decision"),
                                              "{{risk}} {{decision}}")),
        lines("What stayed of replies", Query(_per_second("gatehouse_withheld_total", "reason"), "{{reason}}")),
        lines("Waits for approvals, p95", Query(_quantile(0.95, "gatehouse_hold_seconds", "outcome"), "{{outcome}}"),
              unit="s"),
        lines("Canary", Query("min(gatehouse_gate_canary_held)", "held"),
              Query("max(gatehouse_gate_canary_escaped)", "escaped")),
        lines("Approval queue", Query("max(gatehouse_approvals_waiting)", "waiting"),
              Query("max(gatehouse_approvals_approved_unused)", "approved, not used"),
              Query("max(gatehouse_approvals_unreported)", "not reported"),
              Query("max(gatehouse_approvals_frozen)", "frozen keys"), Query("max(gatehouse_approvals_up)", "store")),
        lines("Oldest request", Query("max(gatehouse_approvals_oldest_seconds)", "approval"),
              Query("max(gatehouse_approvals_notices_oldest_seconds)", "message"), unit="s"),
        lines("Messages", Query("max(gatehouse_approvals_notices_waiting)", "waiting"),
              Query("max(gatehouse_approvals_notices_failed)", "given up")),
        lines("Shadow bundle", Query(_per_second("gatehouse_shadow_calls_total", "live", "shadow"),
                                     "{{live}} would be {{shadow}}"),
              Query("sum(rate(gatehouse_shadow_changed_total[5m]))", "changed"),
              Query(_per_second("gatehouse_shadow_missed_total", "why"), "not judged: {{why}}"),
              Query("max(gatehouse_shadow_up)", "loaded")),
        lines("Guardrails", Query(_per_second("gatehouse_guardrail_findings_total", "direction", "detector", "action"),
                                  "{{direction}} {{detector}} {{action}}"),
              Query(_per_second("gatehouse_guardrail_failures_total", "detector", "outcome"),
                    "failed: {{detector}} {{outcome}}")),
        lines("Guardrails, p95", Query(_quantile(0.95, "gatehouse_guardrail_seconds", "direction"), "{{direction}}"),
              unit="s"),
        lines("Audit: records a second", Query("max(rate(gatehouse_audit_records[5m]))", "records"),
              Query("max(gatehouse_audit_up)", "acknowledges")),
        lines("Audit: waiting", Query("sum(gatehouse_audit_backlog_events)", "in the ingress"),
              Query("max(gatehouse_audit_queued_events)", "for the disk"),
              Query("max(gatehouse_audit_unsealed_records)", "for a checkpoint"),
              Query("max(gatehouse_audit_witness_lag_records)", "for witnesses"),
              Query("max(gatehouse_audit_export_lag_records)", "for the export")),
        lines("Audit: ages", Query("max(gatehouse_audit_checkpoint_age_seconds)", "no checkpoint"),
              Query("max(gatehouse_audit_witness_age_seconds)", "no witness"),
              Query("max(gatehouse_audit_export_age_seconds)", "no export"), unit="s"),
        lines("Audit: witnesses", Query("max(gatehouse_audit_witnesses)", "configured"),
              Query("max(gatehouse_audit_witness_stale)", "R2 and R3 held back")),
        lines("Audit: lost events", Query("sum(gatehouse_audit_dropped_events)", "lost")),
        lines("Audit: disk", Query("min(gatehouse_audit_disk_free_bytes)", "free"), unit="bytes"),
    ),
)  # fmt: skip

_BUDGETS = Board(
    "budgets",
    "Gatehouse: budgets and cost",
    (
        lines("Used of each budget", Query("max by (budget, scope) (gatehouse_budget_used_ratio)",
                                           "{{scope}} {{budget}}"), unit="percentunit",
              text="gatehouse budgets list says whose budget it is. Budgets of keys are below."),
        lines("Left, in tokens", Query('min by (budget, scope) (gatehouse_budget_remaining{unit="tokens"})',
                                       "{{scope}} {{budget}}")),
        lines("Left, in money", Query('min by (budget, scope) (gatehouse_budget_remaining{unit="micros"}) / 1e6',
                                      "{{scope}} {{budget}}")),
        lines("Budgets of keys", Query("max by (state) (gatehouse_key_budgets)", "{{state}}")),
        lines("Refused for a budget", Query('sum(rate(gatehouse_requests_total{code="budget_exceeded"}[5m]))',
                                            "refused"), unit="reqps"),
        lines("Refused for a rate", Query('sum(rate(gatehouse_requests_total{code="rate_limit_exceeded"}[5m]))',
                                          "refused"), unit="reqps"),
        lines("Tokens of an hour", Query("sum by (model, kind) (increase(gen_ai_client_token_usage_total[1h]))",
                                         "{{model}} {{kind}}")),
        lines("Cost of an hour", Query("sum by (model, currency) (increase(gen_ai_cost_total[1h]))",
                                       "{{model}} {{currency}}"), text="By the price table, where there is one."),
        lines("Ledger", Query("max(gatehouse_ledger_up)", "answers")),
    ),
)  # fmt: skip

BOARDS: Final = (_ON_CALL, _ENGINES, _ROUTING, _EVIDENCE, _BUDGETS)


def dashboards() -> Mapping[str, str]:
    """The text of each dashboard by the name of its file."""
    return {f"{board.name}.json": rendered(board) for board in BOARDS}
