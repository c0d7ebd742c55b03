import pytest

from deployments.errors import Forbidden
from deployments.ingress.egress import Reach, check, wish
from deployments.ports import ModelId

HERE, THERE, ALSO_HERE = ModelId("here"), ModelId("there"), ModelId("also-here")
MIXED = (Reach(HERE, local=True), Reach(THERE, local=False))
ALL_LOCAL = (Reach(HERE, local=True), Reach(ALSO_HERE, local=True))


@pytest.mark.parametrize("asked", [None, HERE, THERE])
def test_with_egress_the_clients_wish_stands(asked: ModelId | None) -> None:
    assert wish(asked, True, MIXED) == asked
    check(THERE, True, MIXED)


def test_without_egress_the_router_is_asked_for_the_local_model_that_is_left() -> None:
    assert wish(None, False, MIXED) == HERE
    assert wish(HERE, False, MIXED) == HERE


def test_where_everything_is_local_the_router_stays_free() -> None:
    assert wish(None, False, ALL_LOCAL) is None


def test_with_several_local_models_the_router_chooses_and_the_check_decides() -> None:
    assert wish(None, False, (*ALL_LOCAL, Reach(THERE, local=False))) is None


@pytest.mark.parametrize(
    ("asked", "usable"), [(THERE, MIXED), (None, (Reach(THERE, local=False),)), (THERE, (Reach(THERE, local=False),))]
)
def test_without_egress_nothing_leaves(asked: ModelId | None, usable: tuple[Reach, ...]) -> None:
    with pytest.raises(Forbidden, match="on the premises"):
        wish(asked, False, usable)


@pytest.mark.parametrize("decided", [THERE, ModelId("unheard-of")])
def test_the_last_word_refuses_what_is_not_known_to_be_local(decided: ModelId) -> None:
    check(HERE, False, MIXED)
    with pytest.raises(Forbidden):
        check(decided, False, MIXED)
