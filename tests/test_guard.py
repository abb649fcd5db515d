import asyncio

import pytest

from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.guard import guarded


async def settle(steps: list[str]) -> str:
    steps.append("started")
    await asyncio.sleep(0.05)
    steps.append("settled")
    return "receipt"


@pytest.mark.anyio
async def test_a_cancelled_request_settles_to_the_end() -> None:
    steps: list[str] = []
    request = asyncio.create_task(guarded(settle(steps)))
    await asyncio.sleep(0.01)
    for _ in range(3):
        request.cancel()
        await asyncio.sleep(0)
    assert await request == "receipt"
    assert steps == ["started", "settled"]


@pytest.mark.anyio
async def test_what_takes_too_long_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_tollbooth.guard.SETTLEMENT_SECONDS", 0.01)
    with pytest.raises(Unavailable) as refused:
        await guarded(settle([]))
    assert refused.value.reason == "settlement_unknown"
