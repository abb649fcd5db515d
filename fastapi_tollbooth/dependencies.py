"""What users touch: ``Depends(priced("$0.01"))``.

A name in a dependency's signature must not hide behind ``TYPE_CHECKING``: FastAPI resolves it at run time.
"""

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fastapi.dependencies.utils import get_dependant
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from fastapi_tollbooth.errors import ConfigurationError, PricingFailed, Refusal
from fastapi_tollbooth.facts import require_unambiguous
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.pricing import FACT_NAMES, RoutePrice, declare
from fastapi_tollbooth.quoting import Compute
from fastapi_tollbooth.rails import Answered
from fastapi_tollbooth.request_facts import body_of
from fastapi_tollbooth.responses import ensure_answered
from fastapi_tollbooth.routes import Gate, gate_of, methods_of, template_of
from fastapi_tollbooth.rules import Rule
from fastapi_tollbooth.terms import FreeTier, Settle
from fastapi_tollbooth.toll import Toll
from fastapi_tollbooth.tollbooth import Tollbooth
from fastapi_tollbooth.visit import Visit, visit_of

logger = logging.getLogger("fastapi_tollbooth.pricing")


async def get_tollbooth(connection: HTTPConnection) -> Tollbooth:
    """The engine that serves this request, for routes that need more of it than their toll.

    In tests, ``app.dependency_overrides[get_tollbooth] = lambda: another`` gives priced routes another engine.

    Raises:
        ConfigurationError: no tollbooth is installed on the application.
    """
    return _engine(connection, visit_of(connection))


class Priced(Gate):
    """A price on a route, as `priced` makes it. One request has one toll, however many prices it passes."""

    def __init__(self, price: RoutePrice) -> None:
        self.price = price
        self._dependencies = _dependency_parameters(price.function)
        # FastAPI resolves what it finds in a callable's signature: here also what the pricing function depends on.
        own = inspect.Parameter("connection", inspect.Parameter.KEYWORD_ONLY, annotation=HTTPConnection)
        self.__signature__ = inspect.Signature([own, *self._dependencies])
        if self._dependencies:
            _refuse_body_parameters(self)

    @property
    def dependency(self) -> Any:
        """What FastAPI looks for in a dependency that is not wrapped in ``Depends``; there is none.

        Raises:
            ConfigurationError: says how to write it.
        """
        raise ConfigurationError(
            "price_without_depends",
            "a price hangs on a route as dependencies=[Depends(priced(...))]: wrap it in Depends",
        )

    @property
    def decided_by_head(self) -> bool:
        """Whether the request's head is enough to find its price."""
        return not self.price.reads_body and not self._dependencies

    async def __call__(self, *, connection: HTTPConnection, **dependencies: Any) -> Toll:
        """Take the toll of this request, at the most specific of its prices.

        By name alone: as a decorator, a price fails where it is written, and not by letting everybody in.

        Raises:
            Refusal: the request cannot be served; nothing was charged.
        """
        visit = visit_of(connection)
        if visit.toll is not None:
            return visit.toll
        gate = gate_of(connection.scope) or self
        if gate is not self and (not isinstance(gate, Priced) or gate._dependencies):
            visit.deferred = True
            return _TakenElsewhere()  # type: ignore[return-value]
        visit.engine = tollbooth = _engine(connection, visit)
        if _is_preflight(connection):
            # Never charged, so never served by the handler either: what may be asked is all that there is to know.
            raise HTTPException(200, "OK", {"Allow": ", ".join(sorted(methods_of(connection.scope)))})
        if gate.price.terms.metered:
            visit.began = time.monotonic()
        try:
            compute = gate.computation(connection, dependencies if gate is self else {})
            visit.toll = toll = await tollbooth.authorize(gate.price, connection, compute)
        except (Refusal, Answered) as ended:
            ensure_answered(connection.scope)
            visit.deferred = visit.deferred and not isinstance(ended, Answered)
            if isinstance(ended, Refusal) and ended.status >= 500:
                tollbooth.failed(ended, None)
            raise
        return toll

    async def refuse_early(self, connection: HTTPConnection) -> None:
        """Refuse before the body is read, if the request's head brings no credential."""
        if not _is_preflight(connection):
            ensure_answered(connection.scope)
            tollbooth = _engine(connection, visit_of(connection))
            await tollbooth.refuse_unpaid(self.price, connection, self.computation(connection, {}))

    def computation(self, connection: HTTPConnection, dependencies: Mapping[str, Any]) -> Compute | None:
        """The pricing function with its arguments; None where the price has none."""
        function = self.price.function
        if function is None:
            return None

        async def compute() -> Money | None:
            try:
                arguments = {**dependencies, **await _facts_by_name(connection, self.price.function_facts)}
                result = await _call(function, arguments)
                return self.price.computed(result)
            except HTTPException:
                raise
            except Exception as error:
                logger.exception(
                    "the pricing function of %s failed; nothing was charged", template_of(connection.scope)
                )
                raise PricingFailed("pricing_failed", "The price of this request could not be found.") from error

        return compute

    def __repr__(self) -> str:
        return f"priced({str(self.price)!r})"


def priced(
    price: str | Money | Callable[..., Any] | None = None,
    *,
    match: Sequence[Rule | Mapping[str, Any]] | None = None,
    tiers: Mapping[str, str | Money] | None = None,
    tier_header: str = "X-Toll-Tier",
    models: Mapping[str, str | Money] | None = None,
    fallback: str | Money | None = None,
    max_price: str | Money | None = None,
    metered: bool = False,
    description: str | None = None,
    free_tier: FreeTier | Literal[False] | None = None,
    rate_limit: str | None = None,
    settle: Settle | None = None,
    top_up: int | str | Money | None = None,
) -> Priced:
    """The dependency that makes a route cost money: ``Depends(priced("$0.01"))``.

    Args:
        price: What each request costs (``"$0.01"``, ``"0.01 USD"``, ``"21 sat"``, ``"500 msat"``, a `Money`), or a
            function, sync or async, that says so. A function gets those of ``body``, ``headers``, ``query``, ``params``
            and ``request`` that it names as parameters; its other parameters are FastAPI dependencies. It returns
            `Money`, text such as ``"$0.01"``, a number of dollars, or None to leave the price to the fallback.
        match: Rules, tried in order; the first whose conditions all hold decides.
        tiers: Prices by tier; callers choose one in ``tier_header``, and ``"default"`` holds where they do not.
        tier_header: The header that names the tier.
        models: Prices by the body's ``model``, with the built-in table behind them.
        fallback: The price of what match, tiers, models and the function leave open.
        max_price: An amount that no price of this route may exceed.
        metered: Whether the price is only held: the handler says with ``toll.use("$0.0123")`` what it uses of it, and
            that is charged when the response has ended.
        description: What the price is for; shown in the documentation.
        free_tier: What each client gets free of this route each day; False for nothing, though the service has a tier.
        rate_limit: How often one payer, or one client that gets it free, may call: ``"10/second"``, ``"10/second;
            300/hour"``.
        settle: When a rail that settles every request for itself (x402) moves its money: ``"after"`` the handler has
            succeeded, or ``"before"`` it runs, for what cannot be taken back. Default: ``TOLLBOOTH_X402__SETTLE``.
        top_up: What one payment for this route buys on rails that keep credit, instead of ``TOLLBOOTH_TOP_UP``: an
            amount, or a count of requests.

    Raises:
        ConfigurationError: the declaration cannot mean anything.
    """
    return Priced(
        declare(
            price,
            match=match,
            tiers=tiers,
            tier_header=tier_header,
            models=models,
            fallback=fallback,
            max_price=max_price,
            metered=metered,
            description=description,
            free_tier=free_tier,
            rate_limit=rate_limit,
            settle=settle,
            top_up=top_up,
        )
    )


class _TakenElsewhere:
    """Stands for a toll that a more specific price of the request takes, after its own dependencies are resolved."""

    def __getattr__(self, name: str) -> Any:
        raise ConfigurationError(
            "toll_of_another_price",
            "this price does not take the request's toll: a more specific one does; ask for the toll there",
        )


def _engine(connection: HTTPConnection, visit: Visit) -> Tollbooth:
    # Looked up by hand, not as a sub-dependency: the early gate needs it before dependencies run, and a sub-dependency
    # costs every paid request about a tenth of what FastAPI itself does.
    overrides = getattr(connection.scope.get("app"), "dependency_overrides", None)
    engine: object = overrides[get_tollbooth]() if overrides and get_tollbooth in overrides else visit.engine
    if not isinstance(engine, Tollbooth):
        raise ConfigurationError(
            "unusable_override", "an override of get_tollbooth is a plain function that returns a Tollbooth"
        )
    return engine


def _is_preflight(connection: HTTPConnection) -> bool:
    return connection.scope.get("method") == "OPTIONS"


async def _call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return await function(**arguments)
    result = await run_in_threadpool(function, **arguments)
    return await result if inspect.isawaitable(result) else result


async def _facts_by_name(connection: HTTPConnection, names: Sequence[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in names:
        match name:
            case "body":
                facts[name], _ = await body_of(connection)
                require_unambiguous(facts[name])
            case "headers":
                facts[name] = connection.headers
            case "query":
                facts[name] = connection.query_params
            case "params":
                facts[name] = dict(connection.path_params)
            case _:
                facts[name] = connection
    return facts


def _dependency_parameters(function: Callable[..., Any] | None) -> list[inspect.Parameter]:
    if function is None:
        return []
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except (NameError, ValueError) as error:
        raise ConfigurationError(
            "pricing_function_parameters",
            f"the signature of the pricing function cannot be read, so wrap it in a function of your own: {error}",
        ) from error
    taken = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(parameter.kind in taken for parameter in parameters):
        raise ConfigurationError(
            "pricing_function_parameters",
            f"a pricing function names what it wants, out of {', '.join(FACT_NAMES)}, or dependencies",
        )
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in parameters
        if parameter.name not in FACT_NAMES
    ]


def _refuse_body_parameters(priced: Priced) -> None:
    pending = [get_dependant(path="/", call=priced)]
    while pending:
        dependant = pending.pop()
        if dependant.body_params:
            names = ", ".join(field.name for field in dependant.body_params)
            raise ConfigurationError(
                "pricing_function_parameters",
                f"the pricing function declares a body parameter ({names}), which would change the route's own body: "
                "name a parameter `body` to get the parsed body",
            )
        pending.extend(dependant.dependencies)
