"""The application that the third-party clients pay: three priced routes, and a free one that counts handler runs."""

from collections import Counter
from typing import Any

from fastapi import Depends, FastAPI, HTTPException

from fastapi_tollbooth import Tollbooth, priced

app = FastAPI()
Tollbooth().install(app)
_runs: Counter[str] = Counter()


@app.get("/weather", dependencies=[Depends(priced("$0.01"))])
async def weather() -> dict[str, str]:
    """Dear in dollars."""
    _runs["weather"] += 1
    return {"forecast": "sunny"}


@app.get("/joke", dependencies=[Depends(priced("21 sat"))])
async def joke() -> dict[str, str]:
    """Dear in bitcoin."""
    _runs["joke"] += 1
    return {"joke": "A macaroon walks into a bar."}


@app.post("/echo", dependencies=[Depends(priced("$0.01"))])
async def echo(body: dict[str, Any]) -> dict[str, Any]:
    """Dear, and with a request body that a client must send again after it has paid."""
    _runs["echo"] += 1
    return {"echo": body}


@app.get("/letter", dependencies=[Depends(priced("$0.02", settle="before"))])
async def letter() -> dict[str, str]:
    """Paid before it is written."""
    _runs["letter"] += 1
    return {"letter": "sent"}


@app.get("/stumble", dependencies=[Depends(priced("$0.01"))])
async def stumble() -> None:
    """Never serves anybody."""
    _runs["stumble"] += 1
    raise HTTPException(500, "it stumbles")


@app.get("/runs")
async def runs() -> dict[str, int]:
    """How often each handler has run."""
    return dict(_runs)
