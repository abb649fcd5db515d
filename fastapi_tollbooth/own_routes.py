"""Routes of this package's own on the owner's application, and what they read and answer alike."""

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import URLPath
from starlette.requests import Request
from starlette.routing import BaseRoute, Match, NoMatchFound, Route
from starlette.types import Receive, Scope, Send

PREFIX = "/tollbooth/"
"""What the path of every one of them begins with, whatever the application itself is mounted at."""

NO_STORE = {"Cache-Control": "no-store"}
"""The headers of their answers: no cache is to keep a balance or a credential."""

_ROUTE = "fastapi_tollbooth.route"


class OwnRoutes(BaseRoute):
    """Plain Starlette routes, so that a price on the whole application does not cover them.

    They stand before the application's own routes and must not slow them down: to the application they are one route,
    and a glance at the path comes first.
    """

    name = "tollbooth"
    path = f"{PREFIX}{{path:path}}"
    """Instruments that label a request by its route ask every route for its path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for one of these routes."""
        if PREFIX not in scope["path"]:
            return Match.NONE, {}
        found = [(match, {**child, _ROUTE: route}) for route in self._routes for match, child in [route.matches(scope)]]
        # Of a path that is served for other methods only, the first says so.
        return max(found, key=lambda each: each[0].value, default=(Match.NONE, {}))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that was found to be for one of these routes."""
        await scope[_ROUTE].handle(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """They have no names: those are the application's."""
        raise NoMatchFound(name, path_params)


async def body_of(request: Request, most: int) -> bytes | None:
    """The body of a request; None as soon as it is larger than ``most`` bytes."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return body
