"""What both implementations of `ports.Responses` do: the one over a database, and the fake that other tests use."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import GatehouseError, InvalidRequest, NotFound, QuotaExceeded
from deployments.ports import JsonValue, Responses, ResponseStatus, StoredResponse
from deployments.responses.keeper import pack, row_of, unpack
from deployments.responses.settings import ResponsesSettings
from tests.unit.responses.conftest import World
from tests.unit.responses.samples import ACME, GLOBEX, NOW_MS, SETTINGS, message, response, running

CALLS: dict[str, Callable[[Responses, str, str], Awaitable[object]]] = {
    "get": lambda kept, tenant, each: kept.get(tenant, each),
    "delete": lambda kept, tenant, each: kept.delete(tenant, each),
    "cancel": lambda kept, tenant, each: kept.cancel(tenant, each),
    "conversation": lambda kept, tenant, each: kept.conversation(tenant, each),
}


async def _status(world: World, response_id: str = "resp_1") -> ResponseStatus:
    return (await world.kept.get(ACME, response_id)).status


async def _error(call: Awaitable[object]) -> GatehouseError:
    with pytest.raises(GatehouseError) as caught:
        await call
    return caught.value


# --- put and get -------------------------------------------------------------------------------------------------


async def test_a_response_comes_back_as_it_was_put(world: World) -> None:
    stored = response(previous_id="resp_0", expires_ms=NOW_MS + 60_000)
    await world.kept.put(stored)
    assert await world.kept.get(ACME, "resp_1") == stored


async def test_the_fields_of_a_body_keep_their_order(world: World) -> None:
    stored = response()
    await world.kept.put(stored)
    assert list((await world.kept.get(ACME, "resp_1")).body) == list(stored.body)


async def test_a_body_without_output_gets_none(world: World) -> None:
    await world.kept.put(response(body={"id": "resp_1"}))
    assert (await world.kept.get(ACME, "resp_1")).body == {"id": "resp_1"}


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(body=st.dictionaries(st.text() | st.just("output"), _json, max_size=4), items=st.lists(_json, max_size=3))
def test_any_json_survives_packing(body: dict[str, JsonValue], items: list[JsonValue]) -> None:
    stored = response(body=body, input=tuple(items), expires_ms=NOW_MS + 60_000)
    assert unpack(row_of(stored, pack(stored, SETTINGS), NOW_MS, SETTINGS)) == stored


async def test_half_a_surrogate_pair_survives(world: World) -> None:
    await world.kept.put(response(input=(message("user", "\ud83d"),)))
    assert (await world.kept.get(ACME, "resp_1")).input == (message("user", "\ud83d"),)


async def test_what_is_read_is_no_part_of_the_store(world: World) -> None:
    await world.kept.put(response())
    items = await world.kept.conversation(ACME, "resp_1")
    assert isinstance(items[0], dict)
    items[0]["content"] = "changed by a caller"
    assert (await world.kept.get(ACME, "resp_1")).input == (message("user", "ask resp_1"),)


async def test_a_response_that_is_generated_may_be_replaced(world: World) -> None:
    await world.kept.put(response(status="queued"))
    await world.kept.put(response(status="in_progress"))
    await world.kept.put(response(status="completed"))
    assert await _status(world) is ResponseStatus.COMPLETED


@pytest.mark.parametrize("final", ["completed", "incomplete", "failed", "cancelled"])
async def test_a_final_response_stays_as_it_is(world: World, final: str) -> None:
    await world.kept.put(response(status=final))
    before = await world.kept.get(ACME, "resp_1")
    await world.kept.put(running(body={"output": []}))
    await world.kept.put(response(status="completed", body={"output": []}))
    assert await world.kept.get(ACME, "resp_1") == before


@pytest.mark.parametrize("response_id", ["resp_none", "", "x" * 129, "resp_\x00", "résp", "\ud800"])
@pytest.mark.parametrize("call", CALLS)
async def test_an_id_that_was_never_issued_is_not_found(world: World, call: str, response_id: str) -> None:
    error = await _error(CALLS[call](world.kept, ACME, response_id))
    assert isinstance(error, NotFound)
    assert str(error) == f"Response with id '{response_id[:128].encode('utf-8', 'replace').decode()}' not found."


@pytest.mark.parametrize("response_id", ["resp_none", "resp_\x00", "\ud800"])
async def test_an_unknown_id_has_no_life_to_show(world: World, response_id: str) -> None:
    assert not await world.kept.beat(ACME, response_id)


# --- tenants -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
async def test_another_tenants_id_is_answered_like_an_unknown_one(world: World, call: str) -> None:
    unknown = await _error(CALLS[call](world.kept, GLOBEX, "resp_1"))
    await world.kept.put(running())
    foreign = await _error(CALLS[call](world.kept, GLOBEX, "resp_1"))
    assert (type(foreign), foreign.args) == (type(unknown), unknown.args)
    assert await _status(world) is ResponseStatus.IN_PROGRESS


async def test_another_tenants_sign_of_life_counts_for_nothing(world: World) -> None:
    await world.kept.put(running())
    world.clock.advance(31_000)
    assert not await world.kept.beat(GLOBEX, "resp_1")
    assert await _status(world) is ResponseStatus.FAILED


async def test_two_tenants_may_use_one_id(world: World) -> None:
    await world.kept.put(response())
    await world.kept.put(response(tenant=GLOBEX, input=(message("user", "other"),)))
    assert (await world.kept.get(ACME, "resp_1")).input == (message("user", "ask resp_1"),)
    assert (await world.kept.get(GLOBEX, "resp_1")).input == (message("user", "other"),)


async def test_conversations_of_two_tenants_with_the_same_ids_stay_apart(world: World) -> None:
    for tenant in (ACME, GLOBEX):
        for turn, previous in (("resp_1", None), ("resp_2", "resp_1")):
            ask = message("user", f"{tenant} {turn}")
            await world.kept.put(response(turn, tenant=tenant, previous_id=previous, input=(ask,), body={}))
    assert await world.kept.conversation(ACME, "resp_2") == [
        message("user", "acme resp_1"),
        message("user", "acme resp_2"),
    ]


async def test_a_conversation_never_crosses_to_another_tenant(world: World) -> None:
    await world.kept.put(response("resp_1", tenant=GLOBEX))
    await world.kept.put(response("resp_2", previous_id="resp_1"))
    error = await _error(world.kept.conversation(ACME, "resp_2"))
    assert isinstance(error, NotFound)


# --- time --------------------------------------------------------------------------------------------------------


async def test_a_response_lives_as_long_as_the_settings_say_from_its_creation(world: World) -> None:
    world.clock.advance(1_000_000)
    await world.kept.put(response())
    assert (await world.kept.get(ACME, "resp_1")).expires_ms == NOW_MS + 3_600_000


@pytest.mark.parametrize("call", CALLS)
async def test_an_expired_response_is_unknown_at_once(world: World, call: str) -> None:
    await world.kept.put(running(expires_ms=NOW_MS + 1000))
    world.clock.advance(1000)
    assert isinstance(await _error(CALLS[call](world.kept, ACME, "resp_1")), NotFound)
    assert not await world.kept.beat(ACME, "resp_1")


async def test_a_response_is_there_until_the_moment_it_expires(world: World) -> None:
    await world.kept.put(response(expires_ms=NOW_MS + 1000))
    world.clock.advance(999)
    assert await _status(world) is ResponseStatus.COMPLETED


async def test_a_late_writer_cannot_bring_an_expired_response_back(world: World) -> None:
    await world.kept.put(running())
    world.clock.advance(3_600_000)
    await world.kept.put(response())
    assert isinstance(await _error(world.kept.get(ACME, "resp_1")), NotFound)


async def test_an_expired_id_may_be_used_anew(world: World) -> None:
    await world.kept.put(response(expires_ms=NOW_MS + 1000))
    world.clock.advance(1000)
    await world.kept.put(response(created_ms=NOW_MS + 1000, status="failed"))
    assert await _status(world) is ResponseStatus.FAILED


# --- delete ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
async def test_a_deleted_response_is_unknown(world: World, call: str) -> None:
    await world.kept.put(running())
    await world.kept.delete(ACME, "resp_1")
    error = await _error(CALLS[call](world.kept, ACME, "resp_1"))
    assert (type(error), str(error)) == (NotFound, "Response with id 'resp_1' not found.")


@pytest.mark.parametrize("late", [running(), response()])
async def test_a_late_writer_cannot_bring_a_deleted_response_back(world: World, late: StoredResponse) -> None:
    await world.kept.put(running())
    await world.kept.delete(ACME, "resp_1")
    await world.kept.put(late)
    assert isinstance(await _error(world.kept.get(ACME, "resp_1")), NotFound)


async def test_deleting_stops_whoever_generates(world: World) -> None:
    await world.kept.put(running())
    assert await world.kept.beat(ACME, "resp_1")
    await world.kept.delete(ACME, "resp_1")
    assert not await world.kept.beat(ACME, "resp_1")


async def test_a_conversation_with_a_deleted_turn_is_not_found_by_the_id_the_client_gave(world: World) -> None:
    await world.kept.put(response("resp_1"))
    await world.kept.put(response("resp_2", previous_id="resp_1"))
    await world.kept.delete(ACME, "resp_1")
    error = await _error(world.kept.conversation(ACME, "resp_2"))
    assert (type(error), str(error)) == (NotFound, "Response with id 'resp_2' not found.")


# --- background --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "in_progress"])
async def test_a_background_response_without_a_sign_of_life_has_failed(world: World, status: str) -> None:
    await world.kept.put(response(status=status, background=True))
    world.clock.advance(30_001)
    found = await world.kept.get(ACME, "resp_1")
    assert found.status is ResponseStatus.FAILED
    assert found.body["status"] == "failed"
    assert isinstance(found.body["error"], dict)
    assert found.body["error"]["code"] == "server_error"
    assert found.body["error"]["message"]
    assert found.body["output"] == [message("assistant", "answer resp_1")]


async def test_a_background_response_lives_as_long_as_it_gives_signs_of_life(world: World) -> None:
    await world.kept.put(running())
    for _ in range(3):
        world.clock.advance(30_000)
        assert await _status(world) is ResponseStatus.IN_PROGRESS
        assert await world.kept.beat(ACME, "resp_1")


async def test_progress_is_a_sign_of_life(world: World) -> None:
    await world.kept.put(running())
    world.clock.advance(30_000)
    await world.kept.put(running())
    world.clock.advance(30_000)
    assert await _status(world) is ResponseStatus.IN_PROGRESS


async def test_a_response_that_was_seen_failed_stays_failed(world: World) -> None:
    await world.kept.put(running())
    world.clock.advance(30_001)
    failed = await world.kept.get(ACME, "resp_1")
    assert not await world.kept.beat(ACME, "resp_1")
    await world.kept.put(response())
    assert await world.kept.get(ACME, "resp_1") == failed


async def test_a_response_in_the_foreground_does_not_fall_silent(world: World) -> None:
    await world.kept.put(response(status="in_progress"))
    world.clock.advance(3_000_000)
    assert await _status(world) is ResponseStatus.IN_PROGRESS


async def test_a_completed_background_response_does_not_fall_silent(world: World) -> None:
    await world.kept.put(response(background=True))
    world.clock.advance(3_000_000)
    assert await _status(world) is ResponseStatus.COMPLETED


async def test_cancelling_stops_whoever_generates_and_keeps_the_output(world: World) -> None:
    await world.kept.put(running())
    found = await world.kept.cancel(ACME, "resp_1")
    assert found.status is ResponseStatus.CANCELLED
    assert found.body["status"] == "cancelled"
    assert found.body["output"] == [message("assistant", "answer resp_1")]
    assert found == await world.kept.get(ACME, "resp_1")
    assert not await world.kept.beat(ACME, "resp_1")


async def test_a_late_writer_cannot_complete_a_cancelled_response(world: World) -> None:
    await world.kept.put(running())
    await world.kept.cancel(ACME, "resp_1")
    await world.kept.put(response(background=True))
    assert await _status(world) is ResponseStatus.CANCELLED


async def test_cancelling_twice_answers_the_same(world: World) -> None:
    await world.kept.put(running())
    assert await world.kept.cancel(ACME, "resp_1") == await world.kept.cancel(ACME, "resp_1")


@pytest.mark.parametrize("final", ["completed", "incomplete", "failed"])
async def test_cancelling_a_final_response_answers_it_as_it_is(world: World, final: str) -> None:
    await world.kept.put(response(status=final, background=True))
    before = await world.kept.get(ACME, "resp_1")
    assert await world.kept.cancel(ACME, "resp_1") == before


async def test_cancelling_a_silent_response_answers_it_as_failed(world: World) -> None:
    await world.kept.put(running())
    world.clock.advance(30_001)
    assert (await world.kept.cancel(ACME, "resp_1")).status is ResponseStatus.FAILED


@pytest.mark.parametrize("status", ["in_progress", "completed"])
async def test_only_a_background_response_can_be_cancelled(world: World, status: str) -> None:
    await world.kept.put(response(status=status))
    error = await _error(world.kept.cancel(ACME, "resp_1"))
    assert isinstance(error, InvalidRequest)
    assert error.param == "response_id"
    assert (await _status(world)).value == status


# --- conversations -----------------------------------------------------------------------------------------------


async def test_a_conversation_is_every_turn_with_the_oldest_first(world: World) -> None:
    for turn in range(1, 4):
        await world.kept.put(response(f"resp_{turn}", previous_id=f"resp_{turn - 1}" if turn > 1 else None))
    assert await world.kept.conversation(ACME, "resp_2") == [
        message("user", "ask resp_1"),
        message("assistant", "answer resp_1"),
        message("user", "ask resp_2"),
        message("assistant", "answer resp_2"),
    ]


async def test_an_incomplete_response_can_be_continued(world: World) -> None:
    await world.kept.put(response(status="incomplete"))
    assert len(await world.kept.conversation(ACME, "resp_1")) == 2


async def test_a_response_without_output_brings_its_input(world: World) -> None:
    await world.kept.put(response(body={"id": "resp_1"}))
    assert await world.kept.conversation(ACME, "resp_1") == [message("user", "ask resp_1")]


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed", "cancelled"])
@pytest.mark.parametrize("asked", ["resp_1", "resp_2"])
async def test_what_did_not_succeed_cannot_be_continued(world: World, status: str, asked: str) -> None:
    await world.kept.put(response("resp_1", status))
    await world.kept.put(response("resp_2", previous_id="resp_1"))
    error = await _error(world.kept.conversation(ACME, asked))
    assert isinstance(error, InvalidRequest)
    assert error.param == "previous_response_id"


async def test_a_silent_response_cannot_be_continued_because_it_failed(world: World) -> None:
    await world.kept.put(running())
    world.clock.advance(30_001)
    before = await _error(world.kept.conversation(ACME, "resp_1"))
    assert await _status(world) is ResponseStatus.FAILED
    after = await _error(world.kept.conversation(ACME, "resp_1"))
    assert isinstance(before, InvalidRequest)
    assert before.args == after.args


async def test_a_conversation_may_have_as_many_turns_as_the_settings_say(world: World) -> None:
    kept = world.make(ResponsesSettings(max_turns=3))
    for turn in range(1, 5):
        await kept.put(response(f"resp_{turn}", previous_id=f"resp_{turn - 1}" if turn > 1 else None))
    assert len(await kept.conversation(ACME, "resp_3")) == 6
    error = await _error(kept.conversation(ACME, "resp_4"))
    assert isinstance(error, InvalidRequest)
    assert error.param == "previous_response_id"


async def test_responses_that_name_each_other_end_as_too_long(world: World) -> None:
    await world.kept.put(response("resp_1", previous_id="resp_2"))
    await world.kept.put(response("resp_2", previous_id="resp_1"))
    assert isinstance(await _error(world.kept.conversation(ACME, "resp_1")), InvalidRequest)


async def test_a_conversation_of_many_turns_loses_none(world: World) -> None:
    turns = [f"resp_{turn:03}" for turn in range(250)]
    for before, each in zip([None, *turns], turns, strict=False):
        await world.kept.put(response(each, previous_id=before, body={"output": []}))
    found = await world.kept.conversation(ACME, turns[-1])
    assert found == [message("user", f"ask {each}") for each in turns]


async def test_a_conversation_is_handed_out_up_to_the_limit_and_not_beyond(world: World) -> None:
    turns = [
        response("resp_1", input=(message("user", "x" * 700),)),
        response("resp_2", input=(message("user", "x" * 700),), previous_id="resp_1"),
    ]
    whole = sum(pack(turn, SETTINGS).turn_bytes for turn in turns)
    exact = world.make(ResponsesSettings(max_conversation_bytes=whole))
    small = world.make(ResponsesSettings(max_conversation_bytes=whole - 1))
    for kept in (exact, small):
        for turn in turns:
            await kept.put(turn)
    assert len(await exact.conversation(ACME, "resp_2")) == 4
    error = await _error(small.conversation(ACME, "resp_2"))
    assert isinstance(error, InvalidRequest)
    assert (error.param, error.code) == ("previous_response_id", "request_too_large")


# --- quotas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["input", "body"])
async def test_a_response_that_is_too_large_is_refused(world: World, part: str) -> None:
    kept = world.make(ResponsesSettings(max_response_bytes=1024))
    items = [message("user", "x" * 1024)]
    large = response(input=tuple(items)) if part == "input" else response(body={"output": items})
    error = await _error(kept.put(large))
    assert isinstance(error, InvalidRequest)
    assert error.code == "request_too_large"
    assert isinstance(await _error(kept.get(ACME, "resp_1")), NotFound)


async def test_a_response_of_exactly_the_limit_is_stored(world: World) -> None:
    kept = world.make(ResponsesSettings(max_response_bytes=1024))
    empty = pack(response(input=("",)), SETTINGS).bytes - 256
    exact = response(input=("x" * (1024 - empty),))
    await kept.put(exact)
    assert (await kept.get(ACME, "resp_1")).input == exact.input
    error = await _error(kept.put(replace(exact, response_id="resp_2", input=("x" * (1025 - empty),))))
    assert isinstance(error, InvalidRequest)


async def test_a_response_that_is_nested_too_deeply_is_refused(world: World) -> None:
    nested: JsonValue = []
    for _ in range(100_000):
        nested = [nested]
    try:
        assert isinstance(await _error(world.kept.put(response(input=(nested,)))), InvalidRequest)
    finally:
        while isinstance(nested, list) and nested:  # freeing it at once would recurse, too
            nested = nested.pop()


async def test_a_full_tenant_is_told_so_and_others_are_not(world: World) -> None:
    kept = world.make(ResponsesSettings(max_responses_per_tenant=2))
    await kept.put(response("resp_1"))
    await kept.put(response("resp_2"))
    error = await _error(kept.put(response("resp_3")))
    assert isinstance(error, QuotaExceeded)
    assert 1 <= error.retry_after_s <= 60
    await kept.put(response("resp_3", tenant=GLOBEX))
    assert isinstance(await _error(kept.get(ACME, "resp_3")), NotFound)


async def test_a_full_tenant_may_still_finish_what_it_began(world: World) -> None:
    kept = world.make(ResponsesSettings(max_responses_per_tenant=1))
    await kept.put(running())
    await kept.put(response())
    assert (await kept.get(ACME, "resp_1")).status is ResponseStatus.COMPLETED


async def test_deleting_makes_room(world: World) -> None:
    kept = world.make(ResponsesSettings(max_responses_per_tenant=1))
    await kept.put(response("resp_1"))
    await kept.delete(ACME, "resp_1")
    await kept.put(response("resp_2"))
    assert isinstance(await _error(kept.put(response("resp_3"))), QuotaExceeded)


async def test_what_has_expired_takes_no_room(world: World) -> None:
    kept = world.make(ResponsesSettings(max_responses_per_tenant=1, ttl_s=60))
    await kept.put(response("resp_1"))
    world.clock.advance(60_000)
    await kept.put(response("resp_2", created_ms=NOW_MS + 60_000))
    assert (await kept.get(ACME, "resp_2")).status is ResponseStatus.COMPLETED


async def test_bytes_are_counted_until_the_last(world: World) -> None:
    one = pack(response("resp_1"), SETTINGS).bytes
    kept = world.make(ResponsesSettings(max_bytes_per_tenant=3 * one))
    for turn in range(1, 4):
        await kept.put(response(f"resp_{turn}"))
    assert isinstance(await _error(kept.put(response("resp_4"))), QuotaExceeded)
    await kept.delete(ACME, "resp_1")
    assert isinstance(await _error(kept.put(response("resp_4"))), QuotaExceeded)  # a tombstone costs its row
    await kept.delete(ACME, "resp_2")
    await kept.delete(ACME, "resp_3")
    await kept.put(response("resp_4"))


async def test_a_response_that_grows_beyond_the_quota_is_refused_and_stays_as_it_was(world: World) -> None:
    kept = world.make(ResponsesSettings(max_bytes_per_tenant=2048))
    await kept.put(running())
    before = await kept.get(ACME, "resp_1")
    assert isinstance(await _error(kept.put(response(input=("x" * 2048,)))), QuotaExceeded)
    assert await kept.get(ACME, "resp_1") == before


async def test_the_store_is_ready(world: World) -> None:
    assert await world.kept.ready()
