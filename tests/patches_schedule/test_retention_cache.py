"""Evictions of SGLang's real cache spare what is held, and take it before anything has to wait."""

import pytest
from cache_world import World

pytestmark = pytest.mark.host


@pytest.fixture(params=["rust", "python"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def text(name: int, length: int) -> list[int]:
    return [name * 1000 + place for place in range(length)]


def test_a_session_stays_while_strangers_come_and_go(world: World) -> None:
    world.turn("a", text(1, 100))
    for name in range(2, 12):
        world.turn(None, text(name, 100))
        world.check()
    assert world.cached(text(1, 100)) == 100
    assert world.turn("a", text(1, 120)) == 100


def test_without_holds_the_least_recently_used_goes(world: World) -> None:
    for name in range(1, 4):
        world.turn(None, text(name, 100))
    assert world.cached(text(1, 100)) < 100


def test_the_least_valuable_goes_first(world: World) -> None:
    for name, session in enumerate(("a", "b"), start=1):
        world.turn(session, text(name, 100))
    world.value(a=2.0, b=1.0)
    world.turn(None, text(3, 100))
    assert world.cached(text(1, 100)) == 100
    assert world.cached(text(2, 100)) < 100
    assert [hold.whose.session for hold in world.held()] == ["a"]
    world.check()


def test_a_request_that_needs_everything_gets_it(world: World) -> None:
    for name, session in enumerate(("a", "b"), start=1):
        world.turn(session, text(name, 100))
    with world.running(None, text(3, world.size)):
        assert not world.held()
    world.check()


def test_between_evictions_the_scheduler_sees_the_room_it_would_see(world: World) -> None:
    for name, session in enumerate(("a", "b"), start=1):
        world.turn(session, text(name, 100))
    assert world.cache.protected_size() == 0
    assert world.cache.evictable_size() == 200


def test_a_waiting_session_is_the_last_to_lose(world: World) -> None:
    for name, session in enumerate(("a", "b"), start=1):
        world.turn(session, text(name, 100))
    world.value(a=1.0, b=2.0)
    waiting = world.queue("a", text(1, 120))
    world.turn(None, text(3, 100))
    assert world.cached(text(1, 100)) == 100
    world.admit(waiting)
    assert waiting.prefix_len == 100
    world.finish(waiting)
    world.check()


def test_beyond_the_budget_nothing_is_spared() -> None:
    world = World("rust", budget=120)
    for name, session in enumerate(("a", "b"), start=1):
        world.turn(session, text(name, 100))
    world.value(a=2.0, b=1.0)
    world.turn(None, text(3, 40))
    world.turn(None, text(4, 60))
    assert world.cached(text(1, 100)) == 100
    assert [hold.whose.session for hold in world.held()] == ["a"]


def test_what_sessions_share_counts_once() -> None:
    world = World("rust", budget=140)
    shared = text(9, 80)
    for name, session in enumerate(("a", "b"), start=1):
        world.turn(session, shared + text(name, 20))
    for name in range(3, 8):
        world.turn(None, text(name, 90))
    assert world.cached(shared + text(1, 20)) == world.cached(shared + text(2, 20)) == 100


def test_a_turn_that_ran_dry_counts_as_given_up(world: World) -> None:
    world.turn("a", text(1, 100))
    with world.running(None, text(2, world.size)):
        pass
    assert world.retention.counts.given_up == 1
    world.turn("a", text(1, 120))
    counts = world.retention.counts
    assert (counts.lost, counts.lost_tokens, counts.kept_tokens) == (1, 100, 0)


def test_a_flush_forgets_the_holds(world: World) -> None:
    world.turn("a", text(1, 100))
    world.flush()
    assert not world.held()
    world.turn("a", text(1, 120))
    world.check()


@pytest.mark.parametrize("core", ["rust", "python"])
def test_pages(core: str) -> None:
    world = World(core, page_size=16, size=512)
    world.turn("a", text(1, 100))
    for name in range(2, 9):
        world.turn(None, text(name, 130))
        world.check()
    assert world.turn("a", text(1, 130)) == 96
