"""Routing policy v1 as data, equal to `configs/policies/routing-v1.yaml`; a test keeps both equal."""

from collections.abc import Mapping
from typing import Final

ROUTING_V1: Final[Mapping[str, object]] = {
    "version": 1,
    "name": "routing-v1",
    "default": {"tier": "20b", "effort": "medium"},
    "review": {"large_lines": 400, "large_files": 10, "risky_lines": 30},
    "learning": {"mode": "apply", "exploration": 0.0},
    "without_strong": {
        "down": {"safety": "queue", "rules": "queue"},
        "unserved": {"safety": "refuse", "rules": "base"},
    },
    "costs": {"20b/low": 0.5, "20b/medium": 1.0, "20b/high": 2.5, "120b/medium": 2.0, "120b/high": 5.0},
    "rules": [
        {
            "id": "risk_needs_reasoning",
            "priority": 100,
            "when": {"all": ["risk_r2_or_more", "needs_reasoning"]},
            "effect": ["floor", "bypass_learning"],
            "safety": True,
            "arm": {"tier": "120b", "effort": "high"},
        },
        {
            "id": "incident_failed_once",
            "priority": 90,
            "when": {"all": ["task_incident_diagnosis", "multi_step", "failed_on_base"]},
            "effect": "floor",
            "arm": {"tier": "120b", "effort": "medium"},
        },
        {
            "id": "review_large",
            "priority": 80,
            "when": {"all": ["task_code_review", "review_large"]},
            "effect": "floor",
            "arm": {"tier": "120b", "effort": "medium"},
        },
        {
            "id": "review_high_risk",
            "priority": 70,
            "when": {"all": ["task_code_review", "review_high_risk"]},
            "effect": "floor",
            "arm": {"tier": "120b", "effort": "medium"},
        },
        {
            "id": "risk_untrusted_content",
            "priority": 60,
            "when": {"all": ["risk_r2_or_more", "untrusted_content"]},
            "effect": "floor",
            "safety": True,
            "arm": {"tier": "120b", "effort": "medium"},
        },
    ],
}
