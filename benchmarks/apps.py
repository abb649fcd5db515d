"""The applications that are compared. Factories, so that the bare server never imports the tollbooth."""

import gc
import os
from typing import Any

from fastapi import Depends, FastAPI, HTTPException

TUNED_GC = "BENCHMARK_TUNED_GC"
"""The variable that, set to ``true``, tunes the garbage collector where there is no tollbooth to do it."""


async def weather() -> dict[str, str]:
    """The work of every route: little, so that what is around it shows."""
    return {"city": "Lisbon", "sky": "clear"}


def bare() -> FastAPI:
    """FastAPI as it comes, the baseline of every ratio, with as many routes to look through."""
    app = FastAPI()
    app.get("/plain")(weather)
    app.get("/paid")(weather)
    return _ready(app)


def priced() -> FastAPI:
    """An application with a tollbooth, configured by ``TOLLBOOTH_*`` variables, one route free and one priced."""
    from fastapi_tollbooth import Tollbooth, priced

    app = FastAPI()
    Tollbooth().install(app)
    app.get("/free")(weather)
    app.get("/paid", dependencies=[Depends(priced("$0.01"))])(weather)
    return app


def orm() -> FastAPI:
    """The way that it is usually done: each request opens a session, charges its account, adds a row, and commits."""
    from sqlalchemy import BigInteger, create_engine, event, update
    from sqlmodel import Field, Session, SQLModel

    class Account(SQLModel, table=True):
        key: str = Field(primary_key=True)
        balance: int = Field(sa_type=BigInteger)

    class Charge(SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)
        account: str
        amount: int

    url = os.environ["TOLLBOOTH_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url, pool_size=40)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
                connection.execute(f"PRAGMA {pragma}").close()

    SQLModel.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Account(key="a", balance=10**15))
        session.commit()

    def charge() -> None:
        with Session(engine) as session:
            enough = update(Account).where(Account.key == "a", Account.balance >= 10_000)  # type: ignore[arg-type]
            if session.execute(enough.values(balance=Account.balance - 10_000)).rowcount != 1:  # type: ignore[attr-defined]
                raise HTTPException(402)
            session.add(Charge(account="a", amount=10_000))
            session.commit()

    app = FastAPI()
    app.get("/paid", dependencies=[Depends(charge)])(weather)
    return _ready(app)


def _ready(app: FastAPI) -> FastAPI:
    if os.environ.get(TUNED_GC) == "true":
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 10, 10)
    return app
