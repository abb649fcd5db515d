"""The ``TOLLBOOTH_*`` variables: which there are, what they mean, and which of those that are set are misspelt."""

import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.settings import PREFIX, TollboothSettings

logger = logging.getLogger("fastapi_tollbooth")

_NEAR = 0.8
# What Kubernetes sets for every service, here for one that is called "tollbooth".
_OF_OTHERS = re.compile(r"TOLLBOOTH(_\w+)?_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")


class Variable(NamedTuple):
    """A variable, its default in words, and what it means, in Markdown."""

    name: str
    default: str
    meaning: str


class Unknown(NamedTuple):
    """A variable that is set and means nothing, and the one that was probably meant."""

    name: str
    nearest: str | None

    def __str__(self) -> str:
        return f"{self.name} is no setting" + (f": did you mean {self.nearest}?" if self.nearest else "")


def variables(model: type[BaseModel] = TollboothSettings, prefix: str = PREFIX) -> Iterator[Variable]:
    """Every variable of a model of settings, those of nested models without their parents."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name}".upper()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from variables(field.annotation, f"{variable}__")
        else:
            meaning = " ".join((field.description or "").replace("``", "`").split())
            choices = _choices(field.annotation)
            if choices:
                meaning += f" One of {', '.join(f'`{each}`' for each in choices)}."
            yield Variable(variable, _in_words(field.get_default(call_default_factory=True)), meaning)


def unknown(environment: Iterable[str], model: type[BaseModel] = TollboothSettings) -> list[Unknown]:
    """The names among these that begin like a setting and are none."""
    known = {variable.name for variable in variables(model)}
    groups = {name.rpartition("__")[0] for name in known if "__" in name}
    found = []
    for name in sorted({name.upper() for name in environment if name.upper().startswith(PREFIX)}):
        inside = any(name.startswith(f"{each}__") for each in known)  # a key of a setting that is a map
        if name not in known | groups and not inside and not _OF_OTHERS.fullmatch(name):
            found.append(Unknown(name, _nearest(name, known)))
    return found


def report_unknown(environment: Mapping[str, str], production: bool) -> None:
    """Say which variables are set in vain, here or in ``.env``.

    Raises:
        ConfigurationError: one is misspelt, in production, where it may be a safeguard that is not there.
    """
    found = unknown([*environment, *dotenv_values(".env")])
    misspelt = [str(each) for each in found if each.nearest]
    if production and misspelt:
        raise ConfigurationError("misspelt_setting", "; ".join(misspelt))
    for each in found:
        logger.warning("%s", each)


def read_settings() -> TollboothSettings:
    """The settings that variables, ``.env`` and files describe.

    Raises:
        ConfigurationError: names every variable that cannot mean anything, and never a secret's value.
    """
    try:
        return TollboothSettings()
    except ValidationError as error:
        wrong = [_told(each) for each in error.errors(include_url=False, include_input=False)]
    except SettingsError as error:
        field = str(error).partition('"')[2].partition('"')[0].upper()
        wrong = [
            f'{PREFIX}{field}: it is not JSON; write a list like \'["base"]\' and a map like \'{{"base": "0x..."}}\''
        ]
    raise ConfigurationError("invalid_setting", "\n".join(wrong))


def page() -> str:
    """The table of all settings, in Markdown."""
    lines = []
    group = None
    for variable in variables():
        if variable.name.rpartition("__")[0] != group:
            group = variable.name.rpartition("__")[0]
            lines += ["", f"## `{group}__…`" if group else "## The service", ""]
            lines += ["| variable | default | meaning |", "|---|---|---|"]
        lines.append(f"| `{variable.name}` | {variable.default} | {variable.meaning.replace('|', '&#124;')} |")
    return "\n".join(lines).strip() + "\n"


def _told(problem: ErrorDetails) -> str:
    name = f"{PREFIX}{'__'.join(map(str, problem['loc']))}".upper()
    if problem["type"] == "extra_forbidden":
        return str(Unknown(name, _nearest(name, {variable.name for variable in variables()})))
    cause = problem.get("ctx", {}).get("error")
    detail = cause.detail if isinstance(cause, ConfigurationError) else problem["msg"].removeprefix("Value error, ")
    return f"{name}: {detail}"


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, 1, _NEAR)), None)


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return list(map(str, get_args(annotation)))
    return [each for part in get_args(annotation) for each in _choices(part)]


def _in_words(default: Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, list | tuple):
        default = ",".join(map(str, default))
    return f"`{default}`" if default not in (None, "", {}) else "none"
