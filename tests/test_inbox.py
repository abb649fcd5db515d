import asyncio
import threading
from collections.abc import Callable

import pytest

from fastapi_tollbooth.ledger.inbox import Inbox


def inbox(attend: Callable[[], None] = lambda: None) -> Inbox[int]:
    return Inbox(attend)


@pytest.mark.anyio
async def test_what_arrives_together_is_taken_together_after_one_ring() -> None:
    rings: list[None] = []
    jobs = inbox(lambda: rings.append(None))
    loop = asyncio.get_running_loop()

    async def ask(number: int) -> None:
        await asyncio.sleep(0)  # as requests do that need a turn of the loop before they get here
        jobs.put(number, loop)

    await asyncio.gather(*(ask(number) for number in range(50)))
    taken = await asyncio.to_thread(jobs.take, 100, 5)
    assert taken == list(range(50))
    assert len(rings) == 1


@pytest.mark.anyio
async def test_somebody_attends_before_each_ring() -> None:
    taken: list[list[int]] = []

    def attend() -> None:
        threads.append(threading.Thread(target=lambda: taken.append(jobs.take(10, 5))))
        threads[-1].start()

    threads: list[threading.Thread] = []
    jobs = inbox(attend)
    jobs.put(1, asyncio.get_running_loop())
    while not threads:
        await asyncio.sleep(0)
    await asyncio.to_thread(threads[0].join, 5)
    jobs.put_now(2)
    await asyncio.to_thread(threads[1].join, 5)
    assert taken == [[1], [2]]


def test_a_full_inbox_is_taken_in_order_and_in_parts_without_another_ring() -> None:
    jobs = inbox()
    for number in range(5):
        jobs.put_now(number)
    assert len(jobs.jobs) == 5
    assert [jobs.take(2, 5), jobs.take(2, 5), jobs.take(2, 5)] == [[0, 1], [2, 3], [4]]
    assert jobs.take(2, 0.01) == []


@pytest.mark.anyio
async def test_a_ring_without_a_job_wakes_too() -> None:
    jobs = inbox()
    jobs.ring_soon(asyncio.get_running_loop())
    assert await asyncio.wait_for(asyncio.to_thread(jobs.take, 2, None), 5) == []


def test_a_loop_that_ends_before_it_rings_keeps_no_other_from_ringing() -> None:
    jobs = inbox()
    loop = asyncio.new_event_loop()
    loop.call_soon(jobs.put, 1, loop)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert len(jobs.jobs) == 1

    async def other() -> list[int]:
        jobs.put(2, asyncio.get_running_loop())
        return await asyncio.to_thread(jobs.take, 10, 5)

    assert asyncio.run(other()) == [1, 2]


def test_no_job_is_lost_between_many_loops_and_one_thread() -> None:
    jobs, taken, done = inbox(), list[int](), threading.Event()

    def take() -> None:
        while len(taken) < 4_000 and not done.is_set():
            taken.extend(jobs.take(7, 1))

    async def put(start: int) -> None:
        loop = asyncio.get_running_loop()
        for number in range(start, start + 1_000):
            jobs.put(number, loop)
            if number % 3 == 0:
                await asyncio.sleep(0)

    taker = threading.Thread(target=take)
    taker.start()
    putters = [threading.Thread(target=lambda start=start: asyncio.run(put(start))) for start in range(0, 4_000, 1_000)]
    for thread in putters:
        thread.start()
    for thread in putters:
        thread.join()
    taker.join(20)
    done.set()
    assert sorted(taken) == list(range(4_000))
    for start in range(0, 4_000, 1_000):
        assert [number for number in taken if start <= number < start + 1_000] == list(range(start, start + 1_000))
