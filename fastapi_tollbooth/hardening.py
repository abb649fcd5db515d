"""What must not be in production: the settings and rails that are only safe on a developer's machine."""

import ipaddress
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr
from sqlalchemy.engine import make_url

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.rails import Rail
from fastapi_tollbooth.settings import MIN_SECRET_LENGTH, PREFIX, TollboothSettings
from fastapi_tollbooth.variables import report_unknown

_RECIPE = 'python -c "import secrets; print(secrets.token_hex(32))"'

# The short words only where they stand alone: one random secret in some ten thousand spells "todo".
_PLACEHOLDER = re.compile(
    r"change|secret|password|default|example|insert|your[-_ ]|(?<![a-z0-9])(?:todo|dummy)(?![a-z0-9])", re.IGNORECASE
)
_LEAST_COMPRESSED = 28
_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


class Hazard(NamedTuple):
    """Something that production must not have, and how to mend it. ``setting`` is the variable that it is about."""

    setting: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.what}; {self.mend}"


def setting_hazards(settings: TollboothSettings) -> list[Hazard]:
    """Everything about the settings that is only safe on a developer's machine."""
    return [
        *_secret_hazards(settings),
        *_database_hazards(settings),
        *(_plain_http(name, url) for name, url in _urls(settings, PREFIX) if _is_exposed(url)),
    ]


def rail_hazards(rails: Sequence[Rail[Any]]) -> list[Hazard]:
    """The rails whose payments are not real: they say so with ``for_development = True``."""
    return [
        Hazard(
            "rails",
            f"payments to the rail {rail.name!r} are not real",
            f"configure a real node, {PREFIX}LIGHTNING__BACKEND, or facilitator, {PREFIX}X402__FACILITATOR_URL",
        )
        for rail in rails
        if getattr(rail, "for_development", False)
    ]


def require_safe(settings: TollboothSettings, rails: Callable[[], Sequence[Rail[Any]]]) -> None:
    """Refuse to start in production with what is only safe on a developer's machine.

    Raises:
        ConfigurationError: says all of it at once, and how to mend each.
    """
    production = settings.environment == "production"
    report_unknown(os.environ, production)
    # The settings first: rails that are made of unsafe ones would only say the first thing that is wrong.
    found = production and (setting_hazards(settings) or rail_hazards(rails()))
    if found:
        raise ConfigurationError(
            "unsafe_in_production",
            f"not safe with {PREFIX}ENVIRONMENT=production:\n" + "\n".join(f"- {each}" for each in found),
        )


def is_weak(secret: str) -> bool:
    """Whether a secret is short, a placeholder, or a pattern, so that it can be guessed."""
    if len(secret) < MIN_SECRET_LENGTH or _PLACEHOLDER.search(secret):
        return True
    return len(zlib.compress(secret.encode(), 9)) < _LEAST_COMPRESSED


def _secret_hazards(settings: TollboothSettings) -> Iterator[Hazard]:
    name = f"{PREFIX}SECRET"
    if settings.secret is None:
        yield Hazard(name, "it is not set", f"make one: {_RECIPE}")
        return
    for number, secret in enumerate(settings.secret.get_secret_value().split(","), 1):
        if is_weak(secret.strip()):
            which = "the secret" if number == 1 else f"secret number {number}"
            yield Hazard(name, f"{which} is short, a placeholder, or a pattern", f"make one: {_RECIPE}")


def _database_hazards(settings: TollboothSettings) -> Iterator[Hazard]:
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        yield Hazard(
            f"{PREFIX}DATABASE_URL",
            "the ledger is in memory: all credit is lost when the process ends",
            'write "sqlite:////var/lib/shop/tollbooth.db", or name a PostgreSQL',
        )


def _plain_http(name: str, url: str) -> Hazard:
    host = urlsplit(url).hostname
    return Hazard(name, f"requests to {host} are not encrypted", "write https, or reach it over a private network")


def _urls(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, BaseModel):
        separator = "" if name == PREFIX else "__"
        for field in type(value).model_fields:
            yield from _urls(getattr(value, field), f"{name}{separator}{field}".upper())
    elif isinstance(value, dict):
        for each in value.values():
            yield from _urls(each, name)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _urls(each, name)


def _is_exposed(text: str) -> bool:
    if not text.lower().startswith("http://"):
        return False
    try:
        host = (urlsplit(text).hostname or "").rstrip(".")
    except ValueError:
        return False  # no address at all, which whoever is to call it says
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # A name without dots is one of a private network, such as that of a container.
        return "." in host and not host.endswith(_PRIVATE_NAMES)
    return not (address.is_private or address.is_loopback or address.is_link_local)
