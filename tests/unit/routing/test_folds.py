import numpy as np
import pytest

from serve_app.routing.data import Labelled, key_of
from serve_app.routing.folds import by_id, by_task, few, numbers


def rows_of(*prompts: str, tasks: list[str] | None = None) -> list[Labelled]:
    named = tasks or [""] * len(prompts)
    return [
        Labelled(str(number), key_of(prompt), "s", prompt, 1.0, 1.0, task=task)
        for number, (prompt, task) in enumerate(zip(prompts, named, strict=True))
    ]


MANY = rows_of(*(f"question {number // 2}" for number in range(60)))  # every question twice


def test_every_row_is_tested_once_and_never_learned_from_there() -> None:
    folds = by_id(MANY)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(60))
    for fold in folds:
        assert sorted([*numbers(fold.train), *numbers(fold.test)]) == list(range(60))
        assert len(fold.test) == 12


def test_a_question_is_never_on_both_sides() -> None:
    for fold in (*by_id(MANY), few(MANY, 20, 0)):
        assert not {MANY[i].key for i in numbers(fold.train)} & {MANY[i].key for i in numbers(fold.test)}


def test_seeds_fix_the_folds_and_make_them_different() -> None:
    first, again, other = by_id(MANY), by_id(MANY), by_id(MANY, seed=1)
    assert [numbers(fold.test) for fold in first] == [numbers(fold.test) for fold in again]
    assert numbers(first[0].test) != numbers(other[0].test)
    assert numbers(few(MANY, 20, 0).train) != numbers(few(MANY, 20, 1).train)


def test_few_labels_are_the_first_of_a_seeded_permutation() -> None:
    alone = rows_of(*(f"q {number}" for number in range(30)))
    fold = few(alone, 10, 3)
    order = np.random.default_rng(3).permutation(30)
    assert numbers(fold.train) == sorted(order[:10].tolist())
    assert numbers(fold.test) == sorted(order[10:].tolist())


def test_whole_tasks_are_held_out_evenly() -> None:
    tasks = [name for name, size in (("a", 10), ("b", 6), ("c", 5), ("d", 5), ("e", 4)) for _ in range(size)]
    rows = rows_of(*(f"q {number}" for number in range(30)), tasks=tasks)
    folds = by_task(rows, 3)
    for fold in folds:
        assert not {rows[i].task for i in numbers(fold.train)} & {rows[i].task for i in numbers(fold.test)}
    assert sorted(len(fold.test) for fold in folds) == [10, 10, 10]


def test_tasks_that_share_a_question_stay_together() -> None:
    rows = rows_of("same", "same", "x", "y", tasks=["a", "b", "c", "d"])
    folds = by_task(rows, 3)
    assert any({"a", "b"} <= {rows[i].task for i in numbers(fold.test)} for fold in folds)
    with pytest.raises(ValueError, match="cannot make 4 folds"):
        by_task(rows, 4)
