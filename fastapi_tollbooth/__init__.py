"""Get paid per request: ``Depends(priced("$0.01"))`` on a FastAPI route."""

from fastapi_tollbooth.dependencies import get_tollbooth, priced
from fastapi_tollbooth.errors import ConfigurationError, PaymentRequired, Refusal, TollboothError
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.toll import Toll
from fastapi_tollbooth.tollbooth import Tollbooth

__all__ = [
    "Asset",
    "ConfigurationError",
    "Money",
    "PaymentRequired",
    "Refusal",
    "Toll",
    "Tollbooth",
    "TollboothError",
    "TollboothSettings",
    "get_tollbooth",
    "priced",
]
