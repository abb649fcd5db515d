"""What the caveats of a token allow. Pure.

Caveats only ever take away. Whoever holds a token may append some; only those that the service minted say anything
about the caller, and they are the ones that a handler sees. Conditions are those of the L402 protocol specification,
with the service's own name for ``<service>``:

    services=<service>:0[,...]              the services that the token is good for
    <service>_valid_until=<unix seconds>    until when
    <service>_capabilities=<route>[,...]    route templates that it is good for; ``*`` matches any run of characters
    <service>_max_spend=<money>             how much it may spend, together with all tokens made from it
    <service>_account=<key>                 minted only: the account that it spends from, if not its payment's

and conditions that the owner has registered. A caveat that is addressed to the service and that it does not know is
refused, as is anything unknown that it once minted; other unknown caveats are skipped, as the specification says.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from fastapi_tollbooth.errors import ConfigurationError, CredentialRefused
from fastapi_tollbooth.glob import compile_glob
from fastapi_tollbooth.ledger.records import Cap
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rails.macaroon import Token, malformed

MAX_VALUE = 200
_CONDITION = re.compile(r"[a-z][a-z0-9_]{0,62}")
_OURS = frozenset({"services", "preimage"})


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a token is good for.

    Attributes:
        valid_until: Unix time after which it is good for nothing.
        account: The account it was minted for; None for the account of its own payment.
        routes: Tests for route templates; all must hold.
        caps: What it may spend, together with all tokens that have the same beginning.
        owned: The owner's conditions that somebody must check with each request, appended ones included.
        shown: The owner's conditions that the service minted, as handlers see them.
        narrowed: Whether a holder has made it good for less than it was sold for.
    """

    valid_until: float
    account: str | None
    routes: tuple[Callable[[str], bool], ...]
    caps: tuple[Cap, ...]
    owned: tuple[tuple[str, str], ...]
    shown: Mapping[str, str]
    narrowed: bool

    def check(self, route: str | None, now: float) -> None:
        """Whether the token is good for a request to this route now; None for what is no priced route.

        Raises:
            CredentialRefused: ``credential_expired`` or ``wrong_route``.
        """
        if self.valid_until <= now:
            raise CredentialRefused("credential_expired", "This credential has expired. Buy a new one.")
        if self.routes and route is not None and not all(allows(route) for allows in self.routes):
            raise CredentialRefused("wrong_route", "This credential was narrowed to other routes.")


def judge(token: Token, service: str, known: Collection[str]) -> Bounds:
    """What a token with a good signature is good for. ``known`` are the owner's conditions.

    Raises:
        CredentialRefused: it is for another service, or has a caveat that cannot be read or must not be skipped.
    """
    services, limits, routes, caps = [], [], [], []
    owned: list[tuple[str, str]] = []
    unknown: list[str] = []
    account: str | None = None
    for position, (condition, value) in enumerate(token.caveats, 1):
        minted = position <= token.identifier.minted
        if condition == "services":
            services.append(value)
        elif condition == f"{service}_valid_until":
            limits.append(_seconds(value))
        elif condition == f"{service}_capabilities":
            routes.append(_any_of(value))
        elif condition == f"{service}_max_spend":
            caps.append(Cap(token.prefix(position), _money(value, token.identifier.credit.asset)))
        elif condition == f"{service}_account" and minted and account is None:
            account = value
        elif condition in known:
            owned.append((condition, value))
        elif minted or condition.startswith(f"{service}_"):
            unknown.append(condition)
    if not services or not all(service in _service_names(value) for value in services):
        raise CredentialRefused("wrong_service", "This credential was issued for another service.")
    if unknown:
        raise CredentialRefused("unknown_caveat", f"The service cannot enforce this credential's {unknown[0]!r}.")
    if not limits:
        raise malformed("its expiry is missing")
    shown = {condition: value for condition, value in token.minted if condition in known}
    narrowed = any(condition != "preimage" for condition, _ in token.appended)
    return Bounds(min(limits), account, tuple(routes), tuple(caps), tuple(owned), shown, narrowed)


def write(service: str, valid_until: int, account: str | None, owned: Sequence[tuple[str, str]]) -> list[str]:
    """The caveats of a new token, in the order in which every token has them."""
    caveats = [f"services={service}:0", f"{service}_valid_until={valid_until}"]
    if account is not None:
        caveats.append(f"{service}_account={account}")
    return caveats + [f"{condition}={value}" for condition, value in owned]


def require_condition(condition: str, service: str) -> None:
    """Make sure that an owner's condition cannot be taken for one of ours.

    Raises:
        ConfigurationError: it can, or is no name.
    """
    if not _CONDITION.fullmatch(condition) or condition in _OURS or condition.startswith(f"{service}_"):
        raise ConfigurationError(
            "caveat_name",
            f"{condition!r} cannot be a caveat: write a name in lower case that is neither 'services' nor 'preimage' "
            f"and does not begin with '{service}_'",
        )


def require_value(condition: str, value: object) -> str:
    """Make sure that a value comes back from a token as it went in.

    Raises:
        ConfigurationError: it is not ASCII text, is empty or too long, or has characters that cannot be seen.
    """
    if (
        isinstance(value, str)
        and 0 < len(value) <= MAX_VALUE
        and value.isprintable()
        and value == value.strip()
        and value.isascii()
    ):
        return value
    raise ConfigurationError(
        "caveat_value", f"a value of the caveat {condition!r} is not plain ASCII text of at most {MAX_VALUE} signs"
    )


def _service_names(value: str) -> set[str]:
    return {service.partition(":")[0].strip() for service in value.split(",")}


def _seconds(value: str) -> float:
    if not (value.isascii() and value.isdigit() and len(value) < 16):
        raise malformed("its expiry is not a number of seconds since 1970")
    return float(int(value))


def _any_of(value: str) -> Callable[[str], bool]:
    tests = [compile_glob(route.strip()) for route in value.split(",")]
    return lambda route: any(test(route) for test in tests)


def _money(value: str, asset: Asset) -> Money:
    try:
        money = Money.parse(value)
    except ConfigurationError as error:
        raise malformed('its cap on spending is not an amount such as "100 sat" or "$1"') from error
    if money.asset is not asset:
        raise malformed(f"its cap on spending must be in {asset}, as its credit is")
    return money
