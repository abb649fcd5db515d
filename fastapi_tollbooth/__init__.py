"""Get paid per request: ``Depends(priced("$0.01"))`` on a FastAPI route."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi_tollbooth.dependencies import get_tollbooth, priced
    from fastapi_tollbooth.errors import ConfigurationError, PaymentRequired, Refusal, TollboothError
    from fastapi_tollbooth.hooks import Reject, ResponseHead, Waive
    from fastapi_tollbooth.money import Asset, Money
    from fastapi_tollbooth.rules import Rule
    from fastapi_tollbooth.settings import TollboothSettings
    from fastapi_tollbooth.terms import FreeTier
    from fastapi_tollbooth.toll import Toll
    from fastapi_tollbooth.tollbooth import Tollbooth

__all__ = [
    "Asset",
    "ConfigurationError",
    "FreeTier",
    "Money",
    "PaymentRequired",
    "Refusal",
    "Reject",
    "ResponseHead",
    "Rule",
    "Toll",
    "Tollbooth",
    "TollboothError",
    "TollboothSettings",
    "Waive",
    "get_tollbooth",
    "priced",
]

_HOMES = {
    "dependencies": ("get_tollbooth", "priced"),
    "errors": ("ConfigurationError", "PaymentRequired", "Refusal", "TollboothError"),
    "hooks": ("Reject", "ResponseHead", "Waive"),
    "money": ("Asset", "Money"),
    "rules": ("Rule",),
    "settings": ("TollboothSettings",),
    "terms": ("FreeTier",),
    "toll": ("Toll",),
    "tollbooth": ("Tollbooth",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Imported on first use: the pytest plugin lives in this package, and every pytest run in an environment that has
    # the package would otherwise pay for FastAPI and SQLModel.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
