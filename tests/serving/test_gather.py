"""Gathered batches: every item is answered in its place, fairly, and nothing is lost."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from jaxgen.serving.gather import Gatherer
from jaxgen.serving.requests import FullError, StoppedError


class Doubling(Gatherer):
    """Doubles numbers; notes each batch. Batches wait while the gate is shut."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"most": 4, "queue": 100, **options})
        self.seen: list[tuple[Any, list[Any]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def warm_up(self) -> None:
        self.gate.wait()

    def run(self, settings: Any, items: list[Any]) -> Sequence[Any]:
        self.gate.wait()
        self.seen.append((settings, list(items)))
        if "bad" in items:
            raise ValueError("bad")
        return [2 * item for item in items]


async def gathered(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


def test_items_are_answered_in_their_places() -> None:
    model = Doubling()
    found = asyncio.run(gathered(*(model.submit([n, 10 * n, 100 * n]) for n in range(1, 6))))
    assert found == [[2 * n, 20 * n, 200 * n] for n in range(1, 6)]
    assert all(len(items) <= 4 for _, items in model.seen)
    assert sum(len(items) for _, items in model.seen) == model.answered == 15
    assert model.waiting == 0


def test_a_batch_is_shared_out_evenly() -> None:
    model = Doubling()
    asyncio.run(gathered(model.submit(list(range(10))), model.submit([50]), model.submit([60, 61])))
    batches = [[50, 60, 0, 1], [61, 2, 3, 4], [5, 6, 7, 8], [9]]
    assert [items for _, items in model.seen] == batches


def test_only_equal_settings_share_a_batch() -> None:
    model = Doubling(most=8)
    work = [model.submit([n], settings="even" if n % 2 == 0 else "odd") for n in range(6)]
    assert asyncio.run(gathered(*work)) == [[2 * n] for n in range(6)]
    assert model.seen == [("even", [0, 2, 4]), ("odd", [1, 3, 5])]


def test_what_waits_while_a_batch_runs_is_the_next_batch() -> None:
    model = Doubling(most=100, window=0.0)

    async def work() -> None:
        model.gate.clear()
        first = asyncio.ensure_future(model.submit([1]))
        await asyncio.sleep(0.02)  # its batch is in the thread
        rest = [asyncio.ensure_future(model.submit([n])) for n in range(2, 10)]
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, *rest)

    asyncio.run(work())
    assert [items for _, items in model.seen] == [[1], list(range(2, 10))]


def test_too_many_are_refused_at_once() -> None:
    model = Doubling(queue=5)

    async def work() -> list[Any]:
        return await gathered(model.submit([1, 2, 3]), model.submit([4, 5, 6]), model.submit([7]))

    found = asyncio.run(work())
    assert found[0] == [2, 4, 6]
    assert found[2] == [14]
    assert isinstance(found[1], FullError)
    assert found[1].retry_after >= 1


def test_a_fault_is_that_of_its_batch_alone() -> None:
    model = Doubling(most=1)
    found = asyncio.run(gathered(model.submit([1]), model.submit(["bad"]), model.submit([3])))
    assert found[0] == [2]
    assert isinstance(found[1], ValueError)
    assert found[2] == [6]


def test_a_client_that_left_is_not_answered() -> None:
    model = Doubling(window=0.05)

    async def work() -> list[Any]:
        gone = asyncio.ensure_future(model.submit([1, 2, 3]))
        await asyncio.sleep(0)  # it waits now
        gone.cancel()
        return await gathered(model.submit([4]), gone)

    answer, gone = asyncio.run(work())
    assert answer == [8]
    assert isinstance(gone, asyncio.CancelledError)
    assert model.seen == [(None, [4])]


def test_it_starts_and_stops_as_an_engine_does() -> None:
    model = Doubling()

    async def work() -> None:
        model.gate.clear()
        model.start()
        waits = asyncio.ensure_future(model.submit([1]))
        await asyncio.sleep(0.01)
        assert not model.ready
        model.gate.set()
        assert await waits == [2]
        assert model.ready
        last = asyncio.ensure_future(model.submit([3]))
        await asyncio.sleep(0)
        await model.stop(grace=5.0)
        assert await last == [6]
        with pytest.raises(StoppedError):
            await model.submit([4])

    asyncio.run(work())


def test_what_is_not_answered_in_time_is_refused() -> None:
    model = Doubling()

    async def work() -> None:
        model.gate.clear()
        waits = [asyncio.ensure_future(model.submit([n] * 4)) for n in range(3)]
        await asyncio.sleep(0.02)  # one batch is in the thread
        await model.stop(grace=0.01)
        model.gate.set()
        found = await asyncio.gather(*waits, return_exceptions=True)
        assert sum(isinstance(one, StoppedError) for one in found) >= 2

    asyncio.run(work())


def test_a_model_that_does_not_compile_says_so() -> None:
    class Broken(Doubling):
        def warm_up(self) -> None:
            raise ValueError("too large")

    model = Broken()

    async def work() -> None:
        model.start()
        await model.call(int)
        assert not model.ready
        assert isinstance(model.failure, ValueError)
        with pytest.raises(StoppedError):
            await model.submit([1])

    asyncio.run(work())
