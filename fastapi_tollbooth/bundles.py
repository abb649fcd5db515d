"""Bundles: more credit for a larger payment. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi_tollbooth.errors import AmbiguousRequest, ConfigurationError
from fastapi_tollbooth.money import Money

BUNDLE_HEADER = "X-Toll-Bundle"
_HELP = 'a bundle is what it costs and the credit that it buys: {"pay": "10000 sat", "get": "11000 sat"}'


class Bundle(NamedTuple):
    """An offer of more credit than it costs: ``pay`` 10000 sat, ``get`` 11000 sat. Both in one asset."""

    pay: Money
    get: Money


def parse_bundles(value: Any) -> tuple[Bundle, ...]:
    """Bundles as the settings give them: ``[{"pay": "10000 sat", "get": "11000 sat"}]``.

    Raises:
        ConfigurationError: one is not two amounts of one asset, gives less than it costs, or costs what another does.
    """
    if not isinstance(value, list | tuple):
        raise ConfigurationError("invalid_bundles", _HELP)
    bundles = tuple(_bundle(entry) for entry in value)
    if len({bundle.pay for bundle in bundles}) < len(bundles):
        raise ConfigurationError(
            "invalid_bundles", "two bundles cost the same: callers choose a bundle by what it costs"
        )
    return bundles


def chosen(bundles: Sequence[Bundle], choices: Sequence[str]) -> Bundle | None:
    """The bundle that a caller asks for by what it costs, such as ``10000 sat``; None where the caller does not.

    Raises:
        AmbiguousRequest: there is no such bundle, or the caller asks for two.
    """
    if not choices:
        return None
    known = {str(bundle.pay): bundle for bundle in bundles}
    try:
        found = [known[str(Money.parse(choice))] for choice in choices]
    except (ConfigurationError, KeyError):
        found = []
    if len(found) != 1:
        names = ", ".join(known) or "none"
        raise AmbiguousRequest("unknown_bundle", f"{BUNDLE_HEADER} chooses one of the bundles, which are: {names}.")
    return found[0]


def _bundle(entry: Any) -> Bundle:
    try:
        pay, get = (
            Money.parse(entry[name]) if isinstance(entry[name], str) else entry[name] for name in ("pay", "get")
        )
        if len(entry) == 2 and pay <= get and not pay.is_zero:
            return Bundle(pay, get)
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError("invalid_bundles", _HELP) from error
    raise ConfigurationError("invalid_bundles", _HELP)
