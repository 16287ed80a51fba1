"""Expected trouble is waited out, shows in the health, and ends."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.errors import BackendUnavailable
from tests.actors.support import retry


class Flaky:
    def __init__(self, failures: int) -> None:
        self.left = failures
        self.calls: list[float] = []

    async def __call__(self) -> str:
        await trio.lowlevel.checkpoint()
        self.calls.append(trio.current_time())
        if self.left:
            self.left -= 1
            raise BackendUnavailable("down")
        return "done"

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.calls, self.calls[1:], strict=False)]


async def test_an_operation_is_tried_until_it_works(autojump_clock: MockClock) -> None:
    flaky = Flaky(failures=30)
    assert await retry().call(flaky) == "done"
    assert len(flaky.calls) == 31


async def test_pauses_grow_to_a_bound_and_are_never_none(autojump_clock: MockClock) -> None:
    flaky = Flaky(failures=30)
    await retry().call(flaky)
    assert all(pause >= 0.05 for pause in flaky.pauses)
    assert all(2.5 <= pause <= 5 for pause in flaky.pauses[10:])
    assert flaky.pauses[0] < 0.2
    assert len(set(flaky.pauses)) == 30, "jitter"


async def test_after_a_success_pauses_are_short_again(autojump_clock: MockClock) -> None:
    again = retry()
    await again.call(Flaky(failures=30))
    flaky = Flaky(failures=1)
    await again.call(flaky)
    assert flaky.pauses[0] < 0.2


async def test_trouble_shows_in_the_health_for_as_long_as_it_lasts(
    autojump_clock: MockClock,
) -> None:
    health = ActorHealth()
    async with trio.open_nursery() as nursery:
        flaky = Flaky(failures=3)
        nursery.start_soon(retry("acker", health).call, flaky)
        await trio.sleep(0.01)
        assert health.troubles == ("acker: down",)
    assert health.troubles == ()


async def test_it_gives_up_when_told_that_it_is_no_use(autojump_clock: MockClock) -> None:
    flaky = Flaky(failures=30)
    with pytest.raises(BackendUnavailable):
        await retry().call(flaky, give_up=lambda: len(flaky.calls) >= 3)
    assert len(flaky.calls) == 3


async def test_an_actor_that_has_given_up_is_not_degraded_any_more(
    autojump_clock: MockClock,
) -> None:
    """Nothing would ever report it ok again: the next call may be hours away."""
    health = ActorHealth()
    flaky = Flaky(failures=30)
    seen: list[tuple[str, ...]] = []

    def give_up() -> bool:
        seen.append(health.troubles)
        return len(flaky.calls) >= 3

    with pytest.raises(BackendUnavailable):
        await retry("poller", health).call(flaky, give_up=give_up)
    assert seen == [(), ("poller: down",), ("poller: down",)]
    assert health.troubles == ()


async def test_calls_at_the_same_time_wait_each_for_itself(autojump_clock: MockClock) -> None:
    shared = retry()
    long, short = Flaky(failures=30), Flaky(failures=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shared.call, long)
        await trio.sleep(60)
        await shared.call(short)
    assert short.pauses[0] < 0.2


async def test_what_is_not_trouble_is_not_waited_out(autojump_clock: MockClock) -> None:
    calls = 0

    async def defect() -> None:
        nonlocal calls
        await trio.lowlevel.checkpoint()
        calls += 1
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        await retry().call(defect)
    assert calls == 1


def test_the_health_lists_each_actor_once_and_forgets_it_when_it_is_ok() -> None:
    health = ActorHealth()
    health.degraded("b", RuntimeError("first"))
    health.degraded("a", RuntimeError())
    health.degraded("b", RuntimeError("second"))
    assert health.troubles == ("a: RuntimeError", "b: second")
    health.ok("b")
    health.ok("c")
    assert health.troubles == ("a: RuntimeError",)


def test_an_attempt_ends_trouble_and_shows_it_until_the_next_succeeds() -> None:
    health = ActorHealth()
    for _ in range(2):
        with health.attempt("metrics"):
            raise BackendUnavailable("down")
        assert health.troubles == ("metrics: down",)
    with health.attempt("metrics"):
        pass
    assert health.troubles == ()


def test_an_attempt_lets_a_defect_through() -> None:
    health = ActorHealth()
    with pytest.raises(RuntimeError, match="a defect"), health.attempt("metrics"):
        raise RuntimeError("a defect")
    assert health.troubles == (), "the supervisor reports it"


@pytest.mark.parametrize("seconds", [0.01, 1.0], ids=["in the first pause", "later"])
async def test_a_call_that_is_cancelled_leaves_no_trouble_behind(
    seconds: float, autojump_clock: MockClock
) -> None:
    health = ActorHealth()
    with trio.move_on_after(seconds):
        await retry(health=health).call(Flaky(failures=1000))
    assert health.troubles == ()


async def test_a_call_that_is_cancelled_in_a_further_try_leaves_no_trouble_behind(
    autojump_clock: MockClock,
) -> None:
    health = ActorHealth()
    flaky = Flaky(failures=1)

    async def fail_then_hang() -> None:
        if flaky.left:
            await flaky()
        assert health.troubles
        await trio.sleep_forever()

    with trio.move_on_after(60):
        await retry(health=health).call(fail_then_hang)
    assert health.troubles == ()
