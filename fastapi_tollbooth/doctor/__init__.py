"""The hardening checklist as a program: ``fastapi-tollbooth doctor shop:app``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI

from fastapi_tollbooth.tollbooth import Tollbooth


class Level(StrEnum):
    """How a finding is meant: all is well, look at it, or do not go live with it."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """What one check found. ``mend`` says what to do; empty where all is well."""

    check: str
    level: Level
    detail: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at.

    Attributes:
        app: The application, with its tollbooth installed.
        tollbooth: Its tollbooth.
        environment: The variables that the service will run with.
        folder: The folder that it will run in.
        host: The address that its server will listen on, where the owner says so.
        workers: How many processes will serve it, where the owner says so.
    """

    app: FastAPI
    tollbooth: Tollbooth
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path()
    host: str | None = None
    workers: int | None = None

    @property
    def in_production(self) -> bool:
        """Whether it is configured for production, so that what is not safe there is a problem now."""
        return self.tollbooth.settings.environment == "production"

    @property
    def grave(self) -> Level:
        """The level of what must not be in production."""
        return Level.PROBLEM if self.in_production else Level.WARNING


def ok(check: str, detail: str) -> Finding:
    """A finding that all is well."""
    return Finding(check, Level.OK, detail)


def problem(check: str, detail: str, mend: str) -> Finding:
    """A finding that must be mended before going live."""
    return Finding(check, Level.PROBLEM, detail, mend)


def warning(check: str, detail: str, mend: str) -> Finding:
    """A finding to look at."""
    return Finding(check, Level.WARNING, detail, mend)
