"""Routes of this package's own on the owner's application."""

from starlette.routing import Match, Route
from starlette.types import Scope


class OwnRoute(Route):
    """A plain Starlette route, so that a price on the whole application does not cover it.

    It stands before the application's own routes and must not slow them down: a glance at the path comes first.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for this route."""
        mark = self.path.partition("{")[0]
        return super().matches(scope) if mark in scope["path"] else (Match.NONE, {})
