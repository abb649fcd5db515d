"""Conditions of the owner's own in credentials: how they are checked, and how new credentials get them."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from fastapi_tollbooth.errors import ConfigurationError, CredentialRefused, HookFailed
from fastapi_tollbooth.rails.caveats import require_condition, require_value

logger = logging.getLogger("fastapi_tollbooth")

Check = Callable[[str, Any], bool | Awaitable[bool]]
"""Whether a value of the condition allows a request, which the owner may annotate as `Request` where it is one."""

ValueOf = Callable[[Any], str | Awaitable[str | None] | None]
"""The value for a credential that is sold to this request; None for a credential without the condition."""


class OwnerCaveat(NamedTuple):
    """One condition of the owner's."""

    check: Check
    mint: ValueOf | None = None


OwnerCaveats = Mapping[str, OwnerCaveat]


def registration(
    caveats: dict[str, OwnerCaveat], condition: str, mint: ValueOf | None, service: str
) -> Callable[[Check], Check]:
    """The decorator that adds one condition.

    Raises:
        ConfigurationError: the name cannot be a condition, or is one already.
    """
    require_condition(condition, service)
    if condition in caveats:
        raise ConfigurationError("caveat_name", f"the caveat {condition!r} is there already: choose another name")

    def register(check: Check) -> Check:
        caveats[condition] = OwnerCaveat(check, mint)
        return check

    return register


async def check_owned(caveats: OwnerCaveats, owned: Iterable[tuple[str, str]], connection: HTTPConnection) -> None:
    """Make sure that every condition of a credential allows a request.

    Raises:
        CredentialRefused: ``caveat_not_met``; the 402 names the condition.
        HookFailed: the owner's function failed.
    """
    for condition, value in owned:
        if not await _call(condition, caveats[condition].check, value, connection):
            raise CredentialRefused(
                "caveat_not_met",
                f"The credential's condition {condition!r} does not allow this request.",
                members={"caveat": condition},
            )


async def minted_for(caveats: OwnerCaveats, connection: HTTPConnection) -> tuple[tuple[str, str], ...]:
    """The owner's conditions of a credential that is sold to this request.

    Raises:
        HookFailed: the owner's function failed, or gave something that cannot stand in a credential.
    """
    found: list[tuple[str, str]] = []
    for condition, (_, mint) in caveats.items():
        value = None if mint is None else await _call(condition, _checked(condition, mint), connection)
        if value is not None:
            found.append((condition, value))
    return tuple(found)


def _checked(condition: str, mint: ValueOf) -> Callable[[HTTPConnection], Awaitable[str | None]]:
    async def value_for(connection: HTTPConnection) -> str | None:
        value = mint(connection)
        if inspect.isawaitable(value):
            value = await value
        return None if value is None else require_value(condition, value)

    return value_for


async def _call(condition: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        result = function(*arguments)
        return await result if inspect.isawaitable(result) else result
    except HTTPException:
        raise
    except Exception as error:
        logger.exception("the caveat %r failed; nothing was charged", condition)
        raise HookFailed("caveat_failed", "The service could not check or make a credential.") from error
