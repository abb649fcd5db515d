"""A small weather service that sells its answers: run it with ``uvicorn example_app.main:app``.

One route is free, one costs a cent, one is priced in satoshis, one takes a body and one streams.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel

from fastapi_tollbooth import Toll, Tollbooth, TollboothSettings, priced

app = FastAPI(title="Weather for money")
tollbooth = Tollbooth(TollboothSettings(_env_file=(Path(__file__).with_name("settings.env"), ".env")))
tollbooth.install(app)


STORY = "It was a bright cold day in April, and the forecast had been paid for."


class Weather(BaseModel):
    """What the sky looks like."""

    city: str
    sky: str
    celsius: float


class Trip(BaseModel):
    """Where you want to go."""

    cities: list[str]


@app.get("/health")
async def health() -> dict[str, str]:
    """Free: whether the service is up."""
    return {"status": "ok"}


@app.get("/weather/{city}", dependencies=[Depends(priced("$0.01"))])
async def weather(city: str) -> Weather:
    """The weather in a city."""
    return forecast(city)


@app.get("/joke")
async def joke(toll: Annotated[Toll, Depends(priced("21 sat"))]) -> dict[str, str]:
    """A joke about the weather, and what is left of your credit."""
    return {"joke": "I asked for a raincheck. It was for 21 sats.", "balance": str(toll.balance)}


@app.post("/trip", dependencies=[Depends(priced("$0.03"))])
async def trip(trip: Trip) -> list[Weather]:
    """The weather along a trip."""
    return [forecast(city) for city in trip.cities]


@app.get("/story", response_class=PlainTextResponse, dependencies=[Depends(priced("$0.02"))])
async def story() -> StreamingResponse:
    """A story, told word by word. It is paid for before its first word."""

    async def words() -> AsyncIterator[str]:
        for word in STORY.split():
            yield f"{word} "
            await asyncio.sleep(0.02)

    return StreamingResponse(words(), media_type="text/plain")


def forecast(city: str) -> Weather:
    """An invented forecast, always the same for the same city."""
    seed = sum(map(ord, city))
    return Weather(city=city, sky=("sunny", "cloudy", "rainy")[seed % 3], celsius=seed % 35)
