"""The supplier whose language models this service resells. This one is offline and simulated: the same every time.

In a service of your own, `stream` calls your supplier's API, with your key.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

TOKENS_PER_SECOND = 200


class LanguageModel(NamedTuple):
    """A model on offer, and what a token of it is sold for."""

    name: str
    per_token: str
    voice: str


MODELS = {
    "sparrow-1": LanguageModel("sparrow-1", "$0.0002", "In short: {prompt} I would take a coat, and a friend."),
    "eagle-1": LanguageModel(
        "eagle-1",
        "$0.002",
        "Seen from high above: {prompt} The wind turns before noon, the clouds follow it over the hills, "
        "and whoever waits until the evening will have a clear sky and a long view.",
    ),
}


async def stream(model: LanguageModel, prompt: str) -> AsyncIterator[str]:
    """The answer, token by token."""
    for token in model.voice.format(prompt=prompt.strip()).split():
        await asyncio.sleep(1 / TOKENS_PER_SECOND)
        yield f"{token} "


async def complete(model: LanguageModel, prompt: str) -> str:
    """The answer, all at once."""
    return "".join([token async for token in stream(model, prompt)]).strip()
