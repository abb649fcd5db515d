import asyncio

import pytest

from fastapi_tollbooth.single_flight import SingleFlight


class Work:
    def __init__(self) -> None:
        self.runs = 0
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.runs += 1
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        return self.runs


@pytest.mark.anyio
async def test_a_crowd_shares_one_piece_of_work() -> None:
    flight, work = SingleFlight[str, int](), Work()
    assert await asyncio.gather(*(flight.run("a", work) for _ in range(50))) == [1] * 50
    assert await flight.run("a", work) == 2
    assert sorted(await asyncio.gather(flight.run("a", work), flight.run("b", work))) == [4, 4]
    assert work.runs == 4


@pytest.mark.anyio
async def test_a_crowd_shares_an_error_and_the_next_try_is_new() -> None:
    flight, work = SingleFlight[str, int](), Work()
    work.error = OSError("down")
    results = await asyncio.gather(*(flight.run("a", work) for _ in range(5)), return_exceptions=True)
    assert results == [work.error] * 5
    work.error = None
    assert await flight.run("a", work) == 2


@pytest.mark.anyio
async def test_work_goes_on_when_whoever_asked_is_gone() -> None:
    flight, work = SingleFlight[str, int](), Work()
    gone = asyncio.create_task(flight.run("a", work))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(flight.run("a", work))
    await asyncio.sleep(0)
    gone.cancel()
    assert await waiting == 1
    work.error = OSError("down")
    alone = asyncio.create_task(flight.run("a", work))
    await asyncio.sleep(0)
    alone.cancel()
    await asyncio.sleep(0.05)  # nobody hears of the error, and nothing complains of that
    work.error = None
    assert await flight.run("a", work) == 3


def test_another_event_loop_does_its_own_work() -> None:
    flight, work = SingleFlight[str, int](), Work()
    assert [asyncio.run(flight.run("a", work)) for _ in range(3)] == [1, 2, 3]
