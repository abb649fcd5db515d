"""The two applications that are compared. Factories, so that the bare server never imports the tollbooth."""

import gc
import os

from fastapi import Depends, FastAPI

TUNED_GC = "BENCHMARK_TUNED_GC"
"""The environment variable that, set to ``1``, tunes the garbage collector as ``docs/benchmarks.md`` advises."""


async def weather() -> dict[str, str]:
    """The work of every route: little, so that what is around it shows."""
    return {"city": "Lisbon", "sky": "clear"}


def bare() -> FastAPI:
    """FastAPI as it comes, the baseline of every ratio."""
    app = FastAPI()
    app.get("/plain")(weather)
    return _ready(app)


def priced() -> FastAPI:
    """An application with a tollbooth, configured by ``TOLLBOOTH_*`` variables, one route free and one priced."""
    from fastapi_tollbooth import Tollbooth, priced

    app = FastAPI()
    Tollbooth().install(app)
    app.get("/free")(weather)
    app.get("/paid", dependencies=[Depends(priced("$0.01"))])(weather)
    return _ready(app)


def _ready(app: FastAPI) -> FastAPI:
    if os.environ.get(TUNED_GC) == "1":
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
    return app
