"""Routes of this package's own on the owner's application, and what they read and answer alike."""

from typing import Any

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import Scope

NO_STORE = {"Cache-Control": "no-store"}
"""The headers of their answers: no cache is to keep a balance or a credential."""


class OwnRoute(Route):
    """A plain Starlette route, so that a price on the whole application does not cover it.

    It stands before the application's own routes and must not slow them down: a glance at the path comes first.
    """

    def __init__(self, path: str, *arguments: Any, **options: Any) -> None:
        super().__init__(path, *arguments, **options)
        self._mark = path.partition("{")[0]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for this route."""
        return super().matches(scope) if self._mark in scope["path"] else (Match.NONE, {})


async def body_of(request: Request, most: int) -> bytes | None:
    """The body of a request; None as soon as it is larger than ``most`` bytes."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return body
