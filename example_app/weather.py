"""Invented weather, always the same for the same city."""

from pydantic import BaseModel

_SKIES = ("sunny", "cloudy", "rainy")


class Weather(BaseModel):
    """What the sky looks like."""

    city: str
    sky: str
    celsius: float


class Month(BaseModel):
    """What a month is like in a usual year."""

    month: int
    celsius: float
    millimetres: int


def forecast(city: str) -> Weather:
    """Today's weather."""
    seed = _seed(city)
    return Weather(city=city, sky=_SKIES[seed % 3], celsius=seed % 35)


def climate(city: str) -> list[Month]:
    """A usual year."""
    seed = _seed(city)
    return [
        Month(month=month, celsius=seed % 20 + 12 - 2 * abs(month - 7), millimetres=20 + seed * month % 90)
        for month in range(1, 13)
    ]


def as_csv(months: list[Month]) -> str:
    """A table for spreadsheets."""
    lines = [f"{each.month},{each.celsius},{each.millimetres}" for each in months]
    return "\n".join(["month,celsius,millimetres", *lines]) + "\n"


def _seed(city: str) -> int:
    return sum(map(ord, city))
