"""Responses that are kept, continued, made in the background, cancelled and deleted, through openai-python."""

import dataclasses
import json

import pytest

from tests.conformance.drivers import SCRIPTS, Library
from tests.conformance.upstream import ANSWER, Asked, Say, Step


def play(asked: Asked) -> Step:
    return Say(text=ANSWER, silent_s=100.0 if "wait for ever" in asked.text else 0.0)


@pytest.mark.parametrize("name", ["openai-python-3-responses", "openai-python-2-responses"])
def test_the_store_of_responses_through_the_sdk(task, name: str) -> None:
    with task(name, "state") as it:
        assert isinstance(it.client, Library)
        client = dataclasses.replace(it.client, arguments=(str(SCRIPTS / "openai_state.py"), "state"))
        ran = dataclasses.replace(it, client=client).run(play, "What is the answer?")
        assert ran.exit_code == 0, ran.errors
        seen = json.loads(ran.output)
        assert seen == {
            "again": True,
            "previous": True,
            "input_items": ["And now?"],
            "begun": seen["begun"],
            "ended": "completed",
            "background_text": ANSWER,
            "cancelled": "cancelled",
            "after_cancel": "cancelled",
            "deleted": 404,
            "unknown": 404,
            "unstored": 404,
        }
        assert seen["begun"] in ("queued", "in_progress")
        second = next(asked for asked in it.asked if "And now?" in asked.text)
        assert "What is the answer?" in second.text
        assert ANSWER in second.text
        assert "Be brief." not in second.text  # instructions are not inherited
