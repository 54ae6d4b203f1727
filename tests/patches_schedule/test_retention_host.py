"""What is evicted lies in SGLang's host memory, and comes back before its session does; the copies are SGLang's own,
but for the transfer itself, which needs CUDA."""

import pytest
from tiered_world import TieredWorld

pytestmark = pytest.mark.host
AWAY_S = 60.0
BACK_S = 70.0


@pytest.fixture(params=[("rust", "write_through"), ("python", "write_through"), ("rust", "write_back")])
def world(request: pytest.FixtureRequest) -> TieredWorld:
    core, policy = request.param
    return TieredWorld(core, policy=policy)


def text(name: int, length: int) -> list[int]:
    return [name * 1000 + place for place in range(length)]


def leave(world: TieredWorld, session: str, tokens: list[int]) -> float:
    """A session of which others like it come back after a minute; returns when it left."""
    world.turn(session, tokens)
    world.step()
    [hold] = [hold for hold in world.held() if hold.whose.session == session]
    branch = world.keeper.book.branch(hold.whose, hold.request)
    assert branch is not None
    for _ in range(200):
        world.keeper.book.kinds.add(branch.kind, AWAY_S, tool=False)
    return branch.since


def push_out(world: TieredWorld) -> None:
    """Strangers need all there is."""
    with world.running(None, text(9, world.size)):
        assert not world.held()
    world.step()


def test_it_is_back_before_its_session(world: TieredWorld) -> None:
    mine = text(1, 100)
    left = leave(world, "a", mine)
    written = world.keys(mine).clone()
    push_out(world)
    world.allocator.get_kvcache().get_key_buffer(0).zero_()
    assert world.cached(mine) == 0
    assert not world.decide(left + AWAY_S / 4), "it is brought back though it is away for long"
    moves = world.decide(left + BACK_S)
    assert moves is not None
    assert len(moves.up) == 1
    assert world.cached(mine) == 100
    assert world.keys(mine).equal(written)
    assert [hold.whose.session for hold in world.held()] == ["a"]
    assert world.turn("a", text(1, 120)) == 100
    world.step()
    world.check()


def test_without_us_it_waits_for_its_request(world: TieredWorld) -> None:
    leave(world, "a", text(1, 100))
    push_out(world)
    world.step()
    assert world.cached(text(1, 100)) == 0


def test_nobody_who_is_worth_more_goes_for_it(world: TieredWorld) -> None:
    left = leave(world, "a", text(1, 100))
    push_out(world)
    for name, session in enumerate(("b", "c"), start=2):
        leave(world, session, text(name, 120))
    world.value(b=1e9, c=1e9)
    assert not world.decide(left + BACK_S)
    world.value(c=0.0)
    moves = world.decide(left + BACK_S + 1)
    assert moves is not None
    assert moves.up
    assert [world.cached(text(name, 100)) for name in (1, 2)] == [100, 100]
    assert world.cached(text(3, 120)) < 120
    world.check()


def test_who_came_back_or_never_will_is_known_no_more(world: TieredWorld) -> None:
    left = leave(world, "a", text(1, 100))
    push_out(world)
    assert len(world.cache.parked) == 1
    moves = world.decide(left + 1e6)
    assert moves is not None
    assert moves.gone
    assert not world.cache.parked


def test_a_flush_forgets_it(world: TieredWorld) -> None:
    left = leave(world, "a", text(1, 100))
    push_out(world)
    world.flush()
    assert not world.decide(left + BACK_S)
    world.check()


def test_a_batch_waits_for_what_comes_back(world: TieredWorld) -> None:
    left = leave(world, "a", text(1, 100))
    push_out(world)
    assert world.cache.ready_to_load_host_cache() == -1
    moves = world.tiers.decide(left + BACK_S)
    assert moves is not None
    done: list[int] = []
    world.cache.is_load_back_event_done = lambda index: index in done  # type: ignore[method-assign]
    world.cache.move(moves)
    index = world.cache.ready_to_load_host_cache()
    assert index >= 0
    done.append(index)
    assert world.cache.ready_to_load_host_cache() == -1


def test_those_without_a_copy_get_one_in_time() -> None:
    world = TieredWorld("rust", policy="write_through_selective")
    mine = text(1, 100)
    left = leave(world, "a", mine)
    [hold] = world.held()
    assert not world.cache.is_on_host(hold.node)
    moves = world.decide(left + 1)
    assert moves is not None
    assert moves.down == (hold.number,)
    assert world.cache.is_on_host(hold.node)
    assert not world.decide(left + 2)
    push_out(world)
    assert world.cache.parked
