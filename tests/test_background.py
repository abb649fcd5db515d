import asyncio
import logging

import pytest

from fastapi_tollbooth.background import Background


@pytest.mark.anyio
async def test_work_is_done_beside_and_waited_for_at_the_end() -> None:
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.02)
        done.append("work")

    background = Background()
    background.start(work(), "work")
    assert done == []
    await background.drain()
    assert done == ["work"]
    await background.drain()


@pytest.mark.anyio
async def test_what_fails_or_takes_too_long_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("boom")

    background = Background()
    background.start(fail(), "failing")
    background.start(asyncio.sleep(60), "sleeping")
    with caplog.at_level(logging.ERROR):
        await background.drain(0.05)
        await asyncio.sleep(0)
    assert "failing failed" in caplog.text
    assert "sleeping took longer than 0.05 s" in caplog.text
