import pytest

from deployments.errors import Forbidden
from deployments.ingress.egress import Reach, check, wish
from deployments.ports import ALL_EGRESS, NO_EGRESS, Egress, ModelId

HERE, THERE, ALSO_HERE = ModelId("here"), ModelId("there"), ModelId("also-here")
MIXED = (Reach(HERE, local=True), Reach(THERE, local=False))
ALL_LOCAL = (Reach(HERE, local=True), Reach(ALSO_HERE, local=True))


@pytest.mark.parametrize("asked", [None, HERE, THERE])
def test_with_egress_the_clients_wish_stands(asked: ModelId | None) -> None:
    assert wish(asked, ALL_EGRESS, MIXED) == asked
    check(THERE, ALL_EGRESS, MIXED)


def test_without_egress_the_router_is_asked_for_the_local_model_that_is_left() -> None:
    assert wish(None, NO_EGRESS, MIXED) == HERE
    assert wish(HERE, NO_EGRESS, MIXED) == HERE


def test_where_everything_is_local_the_router_stays_free() -> None:
    assert wish(None, NO_EGRESS, ALL_LOCAL) is None


def test_with_several_local_models_the_router_chooses_and_the_check_decides() -> None:
    assert wish(None, NO_EGRESS, (*ALL_LOCAL, Reach(THERE, local=False))) is None


@pytest.mark.parametrize(
    ("asked", "usable"), [(THERE, MIXED), (None, (Reach(THERE, local=False),)), (THERE, (Reach(THERE, local=False),))]
)
def test_without_egress_nothing_leaves(asked: ModelId | None, usable: tuple[Reach, ...]) -> None:
    with pytest.raises(Forbidden, match="on the premises"):
        wish(asked, NO_EGRESS, usable)


@pytest.mark.parametrize("decided", [THERE, ModelId("unheard-of")])
def test_the_last_word_refuses_what_is_not_known_to_be_local(decided: ModelId) -> None:
    check(HERE, NO_EGRESS, MIXED)
    with pytest.raises(Forbidden):
        check(decided, NO_EGRESS, MIXED)


def test_a_rule_lets_words_out_to_the_models_it_names_and_no_other() -> None:
    rule, elsewhere = Egress(frozenset({THERE})), ModelId("elsewhere")
    both = (*MIXED, Reach(elsewhere, local=False))
    assert wish(THERE, rule, both) == THERE
    assert wish(None, rule, MIXED) is None
    assert wish(None, rule, (Reach(THERE, local=False), Reach(elsewhere, local=False))) == THERE
    check(THERE, rule, both)
    with pytest.raises(Forbidden, match="on the premises"):
        wish(elsewhere, rule, both)
    with pytest.raises(Forbidden):
        check(elsewhere, rule, both)


def test_a_rule_takes_nothing_away_from_what_is_here() -> None:
    rule = Egress(frozenset({THERE}))
    assert wish(HERE, rule, MIXED) == HERE
    check(HERE, rule, MIXED)
