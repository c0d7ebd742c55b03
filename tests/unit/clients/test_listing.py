import pytest

from serve_app.clients.values import ClientModel, models_of


def listing(**change: object) -> object:
    card = {"id": "m", "context_window": 4096, "tier": "20b", "dialects": ["chat", "messages"], **change}
    return {"object": "list", "data": [card]}


def test_a_card_gives_name_window_and_tier() -> None:
    assert models_of(listing()) == (ClientModel("m", 4096, "20b"),)


def test_a_model_may_have_no_tier_and_may_fill_in_the_middle() -> None:
    assert models_of(listing(tier=None, fim=True)) == (ClientModel("m", 4096, None, fim=True),)


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": ""},
        {"id": "a b"},
        {"id": "m\n"},
        {"id": "$(id)"},
        {"id": "x" * 129},
        {"context_window": None},
        {"context_window": 0},
        {"context_window": True},
        {"context_window": "4096"},
        {"dialects": ["embeddings"]},
    ],
)
def test_a_card_that_no_client_can_use_is_left_out(change: dict[str, object]) -> None:
    assert models_of(listing(**change)) == ()


@pytest.mark.parametrize("body", [None, [], "x", {}, {"data": None}, {"data": {}}, {"data": [None, 1, "x", []]}])
def test_an_answer_of_another_shape_lists_nothing(body: object) -> None:
    assert models_of(body) == ()
