"""Which price hangs on a route. The one module that knows how FastAPI keeps dependencies on routes."""

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any

from fastapi import FastAPI, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from starlette.types import Scope

from fastapi_tollbooth.money import Money
from fastapi_tollbooth.price_list import PricedRoute, describe
from fastapi_tollbooth.pricing import RoutePrice

MAX_TEMPLATE = 200


class Gate:
    """What ``priced(...)`` hangs on a route: a price, and the power to refuse before the body is read."""

    price: RoutePrice

    @property
    def decided_by_head(self) -> bool:
        """Whether the request's head is enough to find its price."""
        return False

    async def refuse_early(self, connection: HTTPConnection) -> None:
        """Raise the 402 if nothing in the request's head can pay."""


def gate_of(scope: Scope) -> Gate | None:
    """The most specific gate of the route that was matched: app < include < router < decorator < parameter < nested."""
    dependant = getattr(_context(scope), "dependant", None)
    return None if dependant is None else most_specific(dependant)


def most_specific(dependant: Dependant) -> Gate | None:
    """The last gate among a route's dependencies, in the order in which FastAPI resolves them."""
    found: Gate | None = None
    for dependency in dependant.dependencies:
        nested = most_specific(dependency) if dependency.dependencies else None
        if nested is not None:
            found = nested
        elif isinstance(dependency.call, Gate):
            found = dependency.call
    return found


def methods_of(scope: Scope) -> Collection[str]:
    """The methods of the route that was matched."""
    return getattr(_context(scope), "methods", None) or ()


def takes_form(scope: Scope) -> bool:
    """Whether the route that was matched declares form fields or files."""
    body_field = getattr(_context(scope), "body_field", None)
    return isinstance(getattr(body_field, "field_info", None), params.Form)


def takes_untyped_json(scope: Scope) -> bool:
    """Whether the route reads a body without a content type as JSON, which FastAPI by default does not."""
    strict = getattr(_context(scope), "strict_content_type", False)
    return not getattr(strict, "value", strict)


def template_of(scope: Scope) -> str:
    """The route's path template with every prefix, such as ``/v1/items/{id}``."""
    path = getattr(_context(scope), "path_format", None) or scope.get("path", "")
    root = scope.get("root_path", "")
    mounted_at = root and root[len(scope.get("app_root_path", root)) :]
    return _fit_for_a_database(_mount_template(mounted_at, scope) + path if mounted_at else path)


@lru_cache(maxsize=1_024)
def _fit_for_a_database(template: str) -> str:
    # Some of it may be the caller's own text.
    return template[:MAX_TEMPLATE].replace("\0", "").encode("utf-8", "replace").decode()


def _mount_template(mounted_at: str, scope: Scope) -> str:
    # Starlette keeps where a mount was found, not its template. Without that callers would name their routes, and each
    # name had a free tier and a rate limit of its own.
    values = list(scope.get("path_params", {}).items())
    segments = mounted_at.split("/")
    for index, segment in enumerate(segments):
        if values and segment == str(values[0][1]):
            segments[index] = f"{{{values.pop(0)[0]}}}"
    return "/".join(segments)


def with_mounted(app: FastAPI, prefix: str = "") -> Iterator[tuple[str, FastAPI]]:
    """An application and all that are mounted in it, with the path that each is mounted at."""
    yield prefix, app
    for route in app.routes:
        if isinstance(route, Mount) and isinstance(route.app, FastAPI):
            yield from with_mounted(route.app, prefix + route.path)


def priced_routes(app: FastAPI) -> Iterator[tuple[Any, Gate]]:
    """Every route of an application that has a price, with its effective path, and its gate. Not those of mounts."""
    for context in iter_route_contexts(app.routes):
        dependant = getattr(context, "dependant", None)
        gate = most_specific(dependant) if isinstance(dependant, Dependant) else None
        if gate is not None:
            yield context, gate


def prices_of(installed: Iterable[FastAPI], default: Money | None, limited: bool = False) -> list[PricedRoute]:
    """Every priced route of these applications, and of those mounted in them, once.

    ``limited``: whether free requests have a rate limit by default.
    """
    apps: dict[int, tuple[str, FastAPI]] = {}
    for each in installed:
        for prefix, app in with_mounted(each):
            apps.setdefault(id(app), (prefix, app))
    return [
        describe(prefix + context.path_format, getattr(context, "methods", None), gate.price, default, limited)
        for prefix, app in apps.values()
        for context, gate in priced_routes(app)
    ]


def _context(scope: Scope) -> Any:
    # A route knows only itself; what `include_router` adds (prefix, dependencies) is in FastAPI's own scope entry,
    # which is stale below a mount: then it speaks of another route.
    route = scope.get("route")
    context = scope.get("fastapi", {}).get("effective_route_context")
    return context if context is not None and getattr(context, "original_route", None) is route else route
