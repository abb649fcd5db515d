"""``fastapi-tollbooth``: what an owner asks on the command line."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from fastapi import FastAPI
from uvicorn.importer import ImportFromStringError, import_from_string

from fastapi_tollbooth.doctor import Finding, Level, Patient, problem
from fastapi_tollbooth.doctor.configuration import look
from fastapi_tollbooth.doctor.probe import probe
from fastapi_tollbooth.doctor.reachable import ask
from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.ledger.schema import HEAD
from fastapi_tollbooth.ledger_commands import ledger
from fastapi_tollbooth.models import built_in
from fastapi_tollbooth.terminal import AsJson, DatabaseUrl, print_json, require_ledger, store_at, told
from fastapi_tollbooth.tollbooth import Tollbooth
from fastapi_tollbooth.upkeep import Recovered
from fastapi_tollbooth.variables import page

main = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they may show local variables, and so secrets
    help="Get paid per request on FastAPI.",
)

main.add_typer(ledger, name="ledger")

db = typer.Typer(no_args_is_help=True, help="The ledger's tables.")
main.add_typer(db, name="db")

AppName = Annotated[str, typer.Argument(help="The application, such as shop:app.")]


@main.callback()
def _tollbooth() -> None:
    """Get paid per request on FastAPI."""


@main.command()
def routes(app: AppName, as_json: AsJson = False) -> None:
    """List every priced route: its kind, its range of prices, its fallback, and what to look at twice."""
    prices = _tollbooth_of(app).prices()
    if as_json:
        print_json([{**route._asdict(), **_texts(route._asdict())} for route in prices])
        return
    for route in prices:
        typer.echo(f"{route.methods:<8} {route.path}")
        typer.echo(f"         {route.kind}: {route.price}")
        for warning in route.warnings:
            typer.echo(f"         warning: {warning}")
    typer.echo(f"{len(prices)} priced routes")


@main.command()
def models(as_json: AsJson = False) -> None:
    """Print the built-in prices by language model, and the day that they were right."""
    table = built_in()
    if as_json:
        print_json({**table._asdict(), "prices": {model: str(price) for model, price in table.prices.items()}})
        return
    typer.echo(f"Prices as of {table.as_of}. {table.basis}")
    for source in table.sources:
        typer.echo(f"  {source}")
    for model, price in table.prices.items():
        typer.echo(f"{price!s:>8}  {model}")


@main.command()
def doctor(
    app: AppName,
    as_json: AsJson = False,
    url: Annotated[str | None, typer.Option("--probe", help="Call the service that runs there, too.")] = None,
    host: Annotated[str | None, typer.Option(help="The address that the server listens on.")] = None,
    workers: Annotated[int | None, typer.Option(help="How many processes serve.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody: no database, node or facilitator.")] = False,
) -> None:
    """Go through the checklist for production; exit with 1 if there is a problem."""
    try:
        tollbooth = _imported(app)
    except ConfigurationError as error:
        findings = [problem("start", error.detail, error.url)]
    else:
        patient = Patient(tollbooth.apps[0], tollbooth, os.environ, Path.cwd(), host, workers)
        findings = list(look(patient)) + asyncio.run(_ask(None if offline else patient, url))
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if as_json:
        print_json({"problems": problems, "findings": [finding._asdict() for finding in findings]})
    else:
        for finding in findings:
            typer.echo(f"{finding.level.upper():8} {finding.check:14} {finding.detail}")
            if finding.mend:
                typer.echo(f"{'':24}{finding.mend}")
        typer.echo(f"{problems} problem{'' if problems == 1 else 's'}")
    if problems:
        raise typer.Exit(1)


async def _ask(patient: Patient | None, url: str | None) -> list[Finding]:
    asked = [] if patient is None else [finding async for finding in ask(patient)]
    return asked + ([] if url is None else [finding async for finding in probe(url)])


@main.command()
def settings() -> None:
    """Print the table of all settings, in Markdown."""
    typer.echo(page(), nl=False)


@db.command()
def upgrade(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Make the ledger's tables, or bring them to the revision that this version needs."""
    with store_at(database_url) as store:
        before = store.revision()
        store.upgrade()
    if as_json:
        print_json({"before": before, "revision": HEAD})
    else:
        typer.echo(f"{before or 'no tables'} -> {HEAD}" if before != HEAD else f"{HEAD}, as needed")


@db.command()
def current(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Print the revision of the ledger's tables; exit with 1 when it is not the one that this version needs."""
    with store_at(database_url) as store:
        require_ledger(store)
        found = store.revision()
    if as_json:
        print_json({"revision": found, "needed": HEAD})
    else:
        typer.echo(f"{found or 'no tables'}; this version needs {HEAD}")
    if found != HEAD:
        raise typer.Exit(1)


@main.command()
def reconcile(
    app: Annotated[
        str | None, typer.Argument(help="The application, such as shop:app; by default the settings.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Resolve what crashes and lost answers left open, as a running service does every minute."""

    async def settle() -> Recovered:
        tollbooth = Tollbooth() if app is None else _tollbooth_of(app)
        if not tollbooth.ledger.exists:
            raise typer.BadParameter("there is no ledger there yet")
        try:
            return await tollbooth.recover()
        finally:
            await tollbooth.close()

    with told():
        recovered = asyncio.run(settle())
    if as_json:
        print_json(recovered._asdict())
    else:
        typer.echo(f"{recovered.tolls} tolls given back, {recovered.payments} payments resolved")


def _tollbooth_of(name: str) -> Tollbooth:
    with told():
        return _imported(name)


def _imported(name: str) -> Tollbooth:
    sys.path.insert(0, str(Path.cwd()))
    try:
        app = import_from_string(name)
    except ImportFromStringError as error:
        raise typer.BadParameter(str(error)) from error
    tollbooth = getattr(getattr(app, "state", None), "tollbooth", None)
    if not isinstance(app, FastAPI) or not isinstance(tollbooth, Tollbooth):
        raise typer.BadParameter(f"{name} is not a FastAPI application with a tollbooth installed")
    return tollbooth


def _texts(fields: dict[str, Any]) -> dict[str, Any]:
    names = ("lowest", "highest", "fallback")
    texts = {name: None if fields[name] is None else str(fields[name]) for name in names}
    return {**texts, "amounts": [str(amount) for amount in fields["amounts"]]}
