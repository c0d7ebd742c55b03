import re

import numpy as np
import pytest

from serve_app.routing.perturb import PERTURBATIONS, lowered, mistyped, paraphrased, polite, respaced
from serve_app.routing.stability import mean_ranks, spearman, stability

QUESTION = (
    "What is the most likely cause? A person needs 17 large boxes, each holds 3.5 kg; how many in total?\n"
    "A. 12\nB. 17\nC. None of these large ones\nAnswer:"
)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_change_changes_the_text_the_same_way_each_time_and_keeps_its_numbers(name: str) -> None:
    changed = PERTURBATIONS[name](QUESTION)
    assert changed != QUESTION
    assert changed == PERTURBATIONS[name](QUESTION)
    assert re.findall(r"\d+(?:\.\d+)?", changed) == ["17", "3.5", "12", "17"]
    assert re.findall(r"^\s*([A-H])\. ", changed, re.MULTILINE) == ["A", "B", "C"]


def test_what_each_does() -> None:
    assert "Can you say what is the most probable" in paraphrased(QUESTION)
    assert "what number of" in paraphrased(QUESTION)
    assert len(mistyped(QUESTION).split()) == len(QUESTION.split())
    assert sum(a != b for a, b in zip(mistyped(QUESTION).split(), QUESTION.split(), strict=True)) == 1
    assert respaced(QUESTION).split() == QUESTION.split()
    assert QUESTION in polite(QUESTION)
    assert lowered("Is Rome Big?\nA. Yes\nfoo=Bar()") == "is rome big?\nA. Yes\nfoo=Bar()"


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("text", ["", "?", "12 + 3", "\ud83d\ude00 日本"], ids=["empty", "mark", "sum", "emoji"])
def test_nothing_to_change_is_no_error(name: str, text: str) -> None:
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16")
    assert isinstance(PERTURBATIONS[name](clean), str)


def test_a_score_that_does_not_look_at_wording_keeps_every_decision() -> None:
    prompts = [f"Find the total of {number} large boxes and explain the example." for number in range(50)]

    def by_number(texts) -> np.ndarray:
        return np.asarray([float(re.findall(r"\d+", text)[0]) for text in texts])

    for found in stability(prompts, by_number):
        assert set(found.kept.values()) == {1.0}
        assert found.correlation == pytest.approx(1.0)
        assert found.prompts == 50


def test_a_score_that_wording_turns_around_keeps_few() -> None:
    prompts = [f"Find {number}" for number in range(100)]

    def turned(texts) -> np.ndarray:
        sign = 1 if texts[0].startswith("Find") else -1
        return np.asarray([sign * float(re.findall(r"\d+", text)[0]) for text in texts])

    found = {each.perturbation: each for each in stability(prompts, turned)}["paraphrase"]
    assert found.correlation == pytest.approx(-1.0)
    assert found.kept[0.2] == pytest.approx(0.8, abs=0.02)  # what was above stays nowhere, nothing new comes up
    assert found.strong_share[0.2] == 0.0


def test_ranks_share_ties() -> None:
    assert mean_ranks(np.asarray([5.0, 1.0, 5.0, 0.0])).tolist() == [2.5, 1.0, 2.5, 0.0]
    assert spearman(np.asarray([1.0, 2.0, 3.0]), np.asarray([1.0, 8.0, 9.0])) == pytest.approx(1.0)
    assert spearman(np.ones(3), np.arange(3.0)) == 0.0
