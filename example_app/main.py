"""A service that sells weather and a language model: run it with ``uvicorn example_app.main:app``.

Every way to price a route is here once: a fixed price, a price in satoshis, rules on the request, tiers, a free tier,
and a price that is only held while the answer streams and is counted by the token.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from example_app import language_model
from example_app.language_model import MODELS, LanguageModel
from example_app.weather import Month, Weather, as_csv, climate, forecast
from fastapi_tollbooth import FreeTier, Toll, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.errors import TollExceeded

app = FastAPI(title="Weather for money")
tollbooth = Tollbooth(TollboothSettings(_env_file=(Path(__file__).with_name("settings.env"), ".env")))
tollbooth.install(app)

NO_SUCH_MODEL: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such model."}}
STORY = "It was a bright cold day in April, and the forecast had been paid for."

by_model = priced(
    match=[
        {"where": {"body.model": "sparrow-*"}, "price": "$0.005"},
        {"where": {"body.model": "eagle-*"}, "price": "$0.075"},
    ],
    fallback="$0.075",
    free_tier=FreeTier(credits="$0.02"),
    rate_limit="10/second; 600/hour",
    description="One answer. Two cents a day are free.",
)
by_token = priced(
    match=[
        {"where": {"body.model": "sparrow-*"}, "price": "$0.02"},
        {"where": {"body.model": "eagle-*"}, "price": "$0.20"},
    ],
    fallback="$0.20",
    metered=True,
    description="At most this: what is charged is counted by the token.",
)


class Question(BaseModel):
    """What to ask, and whom."""

    model: str = Field(examples=["sparrow-1"])
    prompt: str = Field(max_length=500, examples=["Will it rain in Lisbon?"])


class Answer(BaseModel):
    """What the model says."""

    model: str
    text: str


class Trip(BaseModel):
    """Where you want to go."""

    cities: list[str]


@app.get("/health")
async def health() -> dict[str, str]:
    """Free: whether the service is up."""
    return {"status": "ok"}


# ── weather ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.get("/weather/{city}", dependencies=[Depends(priced("$0.01"))])
async def weather(city: str) -> Weather:
    """The weather in a city."""
    return forecast(city)


@app.post("/trip", dependencies=[Depends(priced("$0.03"))])
async def trip(trip: Trip) -> list[Weather]:
    """The weather along a trip."""
    return [forecast(city) for city in trip.cities]


@app.get("/climate/{city}", response_model=list[Month], responses={200: {"content": {"text/csv": {}}}})
async def usual_year(
    city: str, toll: Annotated[Toll, Depends(priced(tiers={"default": "$0.002", "csv": "$0.01"}))]
) -> list[Month] | Response:
    """A usual year, as JSON; with ``X-Toll-Tier: csv``, for more, as a table for spreadsheets."""
    months = climate(city)
    return PlainTextResponse(as_csv(months), media_type="text/csv") if toll.tier == "csv" else months


@app.get("/joke")
async def joke(toll: Annotated[Toll, Depends(priced("21 sat"))]) -> dict[str, str]:
    """A joke about the weather, and what is left of your credit."""
    return {"joke": "I asked for a raincheck. It was for 21 sats.", "balance": str(toll.balance)}


@app.get("/story", response_class=PlainTextResponse, dependencies=[Depends(priced("$0.02"))])
async def story() -> StreamingResponse:
    """A story, told word by word. It is paid for before its first word."""

    async def words() -> AsyncIterator[str]:
        for word in STORY.split():
            yield f"{word} "
            await asyncio.sleep(0.02)

    return StreamingResponse(words(), media_type="text/plain")


# ── the language model ────────────────────────────────────────────────────────────────────────────────────────────────


@app.post("/chat", dependencies=[Depends(by_model)], responses=NO_SUCH_MODEL)
async def chat(question: Question) -> Answer:
    """An answer at a fixed price, which depends on the model."""
    model = _model(question)
    return Answer(model=model.name, text=await language_model.complete(model, question.prompt))


@app.post("/chat/stream", response_class=PlainTextResponse, responses=NO_SUCH_MODEL)
async def chat_by_token(question: Question, toll: Annotated[Toll, Depends(by_token)]) -> StreamingResponse:
    """An answer as it is written. Only the tokens that were written are charged."""
    model = _model(question)

    async def tokens() -> AsyncIterator[str]:
        async for token in language_model.stream(model, question.prompt):
            try:
                toll.use(model.per_token)
            except TollExceeded:
                return  # all that was held is used
            yield token

    return StreamingResponse(tokens(), media_type="text/plain")


def _model(question: Question) -> LanguageModel:
    model = MODELS.get(question.model)
    if model is None:
        raise HTTPException(404, f"There is no such model. There are {', '.join(MODELS)}.")
    return model
