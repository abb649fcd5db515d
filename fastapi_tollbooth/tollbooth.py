"""Tollbooth, the engine that all priced routes of an application share: price, credential, ledger, or 402."""

import logging
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property, partial
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.routing import Route

from fastapi_tollbooth import observe
from fastapi_tollbooth.access import ClientResolver, client_of, name_of
from fastapi_tollbooth.admission import Admission
from fastapi_tollbooth.background import Background
from fastapi_tollbooth.challenges import NO_CREDENTIAL, payment_required, presented, toll_of
from fastapi_tollbooth.credits import credit_routes
from fastapi_tollbooth.errors import CredentialRefused, Refusal
from fastapi_tollbooth.free_tier import EXHAUSTED
from fastapi_tollbooth.hardening import require_safe
from fastapi_tollbooth.hooks import Hooks
from fastapi_tollbooth.keys import KeyRing, load_key_ring
from fastapi_tollbooth.ledger.books import Books
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import LightningBackend
from fastapi_tollbooth.lightning.dev import DevNode
from fastapi_tollbooth.lightning.dev_routes import dev_routes
from fastapi_tollbooth.lightning.nodes import configured_node, configured_rates
from fastapi_tollbooth.money import Money, money_of
from fastapi_tollbooth.openapi import document
from fastapi_tollbooth.own_routes import OwnRoutes
from fastapi_tollbooth.payable import require_payable, with_rails
from fastapi_tollbooth.price_list import PricedRoute
from fastapi_tollbooth.pricing import RoutePrice
from fastapi_tollbooth.quoting import Compute, quoted, require_total, standing
from fastapi_tollbooth.rails import Rail, Receipt, Settles
from fastapi_tollbooth.rails.configured import can_sign, configured_rails
from fastapi_tollbooth.rails.l402_routes import l402_routes
from fastapi_tollbooth.rails.owner_caveats import Check, OwnerCaveat, ValueOf, registration
from fastapi_tollbooth.rates import RateSource
from fastapi_tollbooth.responses import refusal_handler
from fastapi_tollbooth.routes import prices_of
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.settlement import SettlementLayer, require_installable
from fastapi_tollbooth.takers import Takers
from fastapi_tollbooth.terms import FreeTier
from fastapi_tollbooth.toll import Quote, Toll
from fastapi_tollbooth.upkeep import Recovered, alive, recover, upkeep
from fastapi_tollbooth.variables import read_settings
from fastapi_tollbooth.visit import visit_of

logger = logging.getLogger("fastapi_tollbooth")


class Tollbooth(Hooks):
    """The shared engine: `install` it on an application, and its priced routes take money.

    Args:
        settings: The settings; by default from ``TOLLBOOTH_*`` variables and ``.env``.
        rails: The ways to pay, or a function that makes them with the ledger; by default those of the settings.
        client: Names the caller of a request, for applications that know their users; by default callers are known by
            their network address.
        rates: Where the dollar price of a bitcoin comes from; by default as the settings say.
        lightning: The Lightning node that receives money; by default the one that the settings configure.
        free_tier: What each client gets free each day; by default what the settings say.
    """

    def __init__(
        self,
        settings: TollboothSettings | None = None,
        *,
        rails: Sequence[Rail[Any]] | Callable[[Ledger], Sequence[Rail[Any]]] | None = None,
        client: ClientResolver | None = None,
        rates: RateSource | None = None,
        lightning: LightningBackend | None = None,
        free_tier: FreeTier | None = None,
    ) -> None:
        super().__init__(Background())
        self.settings = settings or read_settings()
        self.toll_deadline = self.settings.toll_deadline
        self.ledger = Ledger(self.settings.database_url)
        self._given_rails = rails(self.ledger) if callable(rails) else rails
        self._client = client
        self._given_rates = rates
        self._caveats: dict[str, OwnerCaveat] = {}
        self._given_node = lightning
        self.admission = Admission(self.settings, self.ledger, lambda: self.keys, self._background, free_tier)
        self.apps: list[FastAPI] = []

    @cached_property
    def books(self) -> Books:
        """What the owner reads in the ledger and corrects in it: balances, statements, grants, refunds, revocations."""
        return Books(self.ledger)

    @cached_property
    def keys(self) -> KeyRing:
        """The secrets that credentials are signed with."""
        return load_key_ring(self.settings)

    @cached_property
    def lightning(self) -> LightningBackend | None:
        """The Lightning node that receives money; None where there is none.

        Raises:
            ConfigurationError: it cannot work as configured, or is the development node in production.
        """
        return self._given_node or configured_node(self.settings, self.ledger, lambda: self.keys)

    @property
    def dev_node(self) -> DevNode | None:
        """The development Lightning node, if money goes there."""
        return self.lightning if isinstance(self.lightning, DevNode) else None

    @cached_property
    def rails(self) -> tuple[Rail[Any], ...]:
        """The ways to pay, in the order in which they are offered.

        Raises:
            ConfigurationError: there is none, or one cannot work.
        """
        if self._given_rails is not None:
            return tuple(self._given_rails)
        settings, keys = self.settings, lambda: self.keys
        return configured_rails(settings, keys, self.ledger, self.lightning, self.rates, self._caveats)

    @cached_property
    def _takers(self) -> Takers:
        everybody: list[Settles] = [*self.rails, self.admission.free_uses, self.admission.observed]
        return Takers(everybody, self.settled, self.admission.settlement_failed)

    @cached_property
    def rates(self) -> RateSource:
        """Where the dollar price of a bitcoin comes from."""
        return self._given_rates or configured_rates(self.settings)

    def caveat(self, condition: str, *, mint: ValueOf | None = None) -> Callable[[Check], Check]:
        """Decorate the function that checks a condition of your own in credentials: ``@tollbooth.caveat("region")``.

        The function gets the value and the request, and says whether the credential is good for it.

        Args:
            condition: The condition's name.
            mint: Says which value a credential gets that is sold to a request; None leaves the condition out.

        Raises:
            ConfigurationError: the name cannot be a condition, or is one already.
        """
        return registration(self._caveats, condition, mint, self.settings.service)

    # ── the application ───────────────────────────────────────────────────────────────────────────────────────────────

    def install(self, app: FastAPI) -> None:
        """Make this engine serve the priced routes of an application, those added before and after.

        Mounted applications are served too; install on them as well to have their own ``/docs`` show prices.

        Raises:
            ConfigurationError: the application has started, has a tollbooth, or the settings cannot work.
        """
        require_installable(app)
        require_safe(self.settings, lambda: self.rails)
        app.state.tollbooth = self
        app.user_middleware.append(Middleware(SettlementLayer, engine=self))
        app.exception_handlers.setdefault(Refusal, refusal_handler)
        app.router.lifespan_context = alive(app.router.lifespan_context, self._start, self._upkeep, self.close)
        app.router.routes.append(OwnRoutes(self._own_routes()))
        document(app, self.rails)
        self.apps.append(app)
        if self.observes:
            logger.warning(observe.WARNING)
        self.check()

    def _own_routes(self) -> list[Route]:
        routes = l402_routes(self.rails, partial(name_of, trusted=self.settings.trusted_proxies, resolver=self._client))
        if self._given_rails is None and self.dev_node is not None:
            routes += dev_routes(self.dev_node)
        if can_sign(self.settings):
            admitted = self.admission.of_payers
            routes += credit_routes(self.settings, lambda: self.keys, self.rails, self._caveats, admitted)
        return routes

    async def _start(self) -> None:
        self.check()
        await self.ledger.check()

    def _upkeep(self) -> AbstractAsyncContextManager[None]:
        return upkeep(self.ledger, self.rails, self.rates, self.settings)

    async def recover(self) -> Recovered:
        """Resolve what crashes and lost answers have left open. The application does so by itself every minute.

        Raises:
            Unavailable: the ledger's database did not answer.
        """
        return await recover(self.ledger, self.rails, self.settings.toll_deadline)

    async def close(self) -> None:
        """Write what the ledger still has to write, and let go of its database and of the Lightning node."""
        await self.admission.close()
        await self._background.drain()
        await self.ledger.close()
        for rail in self.__dict__.get("rails", ()):
            await rail.aclose()
        if "lightning" in self.__dict__ and self.lightning is not None:
            await self.lightning.aclose()

    # ── a request ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def authorize(self, price: RoutePrice, connection: HTTPConnection, compute: Compute | None = None) -> Toll:
        """Price the request, check its credential, and have the ledger promise the money.

        Raises:
            Refusal: what the caller is told instead of being served. Nothing was charged.
        """
        if self.observes:
            return await self.admission.observed.toll(self.quote(price, connection, compute), connection)
        quote = await self.quote(price, connection, compute)
        if quote.price.is_zero:
            return await self.admission.free(quote)
        rail, credential = presented(self.rails, connection.scope["headers"])
        if rail is None:
            free = await self.admission.within_free_tier(quote)
            if free is None:
                raise await self._unpaid(quote)
            return free
        try:
            authorization = await rail.authorize(credential, self.admission.of_payers(quote))
        except CredentialRefused as refused:
            raise await self._unpaid(quote, refused, rail, credential) from refused
        return toll_of(rail, quote, authorization)

    async def refuse_unpaid(
        self, price: RoutePrice, connection: HTTPConnection, compute: Compute | None = None
    ) -> None:
        """Refuse a request that brings no credential, from its head alone.

        Raises:
            Refusal: as `authorize` would.
        """
        if not self.observes and presented(self.rails, connection.scope["headers"])[0] is None:
            quote = await self.quote(price, connection, compute)
            if not quote.price.is_zero and not self.admission.free_uses.covers(quote):
                raise await self._unpaid(quote)
            visit_of(connection).quote = quote._replace(connection=None)

    async def quote(self, price: RoutePrice, connection: HTTPConnection, compute: Compute | None = None) -> Quote:
        """What this request costs: rules, tiers or models first, then the price, the fallback, the default.

        Raises:
            AmbiguousRequest: the request gives a value that decides more than once, or names an unknown tier.
            PricingFailed: the owner's pricing function failed, or nothing stands behind the rules.
            Rejected: a hook of the owner's refused.
            HookFailed: a hook of the owner's failed.
        """
        known = visit_of(connection).quote
        if known is not None:
            return known._replace(connection=connection)
        if self._on_request:
            await self.admit(connection)
        if self._client is None:
            client = client_of(connection.scope, self.settings.trusted_proxies)
        else:
            client = await name_of(connection, self.settings.trusted_proxies, self._client)
        quote = standing(price, connection, client)
        if quote is None:
            quote = await quoted(price, connection, client, self.settings.default_price, compute)
        return await self.requoted(connection, quote, price.max_price) if self._on_price_resolved else quote

    def prices(self) -> list[PricedRoute]:
        """Every priced route of the applications that this is installed on, and of those mounted in them."""
        limited = self.settings.free_rate_limit is not None
        found = prices_of(self.apps, self.settings.default_price, limited)
        return [with_rails(route, self.rails) for route in found]

    def check(self) -> None:
        """Make sure that every request to every priced route has a price, and every price a way to be paid.

        Raises:
            ConfigurationError: names the routes where that is not so.
        """
        prices = self.prices()
        require_total(prices)
        require_payable(prices, self.rails)

    # No coroutines of their own: every paid request passes here.

    def hold(self, toll: Toll) -> Coroutine[Any, Any, Receipt]:
        """Make sure of the money of a metered toll before its response starts; raises as `capture` does."""
        return self._takers.hold(toll)

    def capture(self, toll: Toll) -> Coroutine[Any, Any, Receipt]:
        """Earn the money of a toll whose request succeeded. Doing it again changes nothing.

        Raises:
            PaymentRequired: the money did not come; the toll is void and the response must be withheld.
            Unavailable: whether it came is unknown; the toll stays open and the response must be withheld.
        """
        return self._takers.capture(toll)

    def void(self, toll: Toll) -> Coroutine[Any, Any, None]:
        """Give the money of a toll back: its request did not succeed. Doing it again changes nothing."""
        return self._takers.void(toll)

    async def reconcile(self, toll: Toll | str | int, actual: str | Money) -> Money:
        """Correct a toll to what its request really cost; what it costs then. Once per toll, however often asked.

        Args:
            toll: The toll, or its id.
            actual: What it cost: in the asset of the price, or of the payer's credit where only the id is given. Never
                more is charged than was held, nor more than the payer has.

        Raises:
            LedgerRefused: the toll is still open, was voided, or is unknown.
            Unavailable: the database did not answer; nothing happened.
        """
        if not isinstance(toll, Toll):
            return (await self.books.reconcile(toll, actual)).earned
        cost = toll.in_credit(money_of(actual))
        return cost if toll.amount.is_zero else (await self.books.reconcile(toll.id, cost)).earned

    @property
    def price_body_limit(self) -> int:
        """Bytes of a body that may be read to find its price."""
        return sys.maxsize if self.observes else self.settings.price_body_limit

    @property
    def observes(self) -> bool:
        """Whether everything is served without payment, and only recorded."""
        return self.settings.mode == "observe"

    def succeeded(self, status: int) -> bool:
        """Whether a response with this status is what the caller pays for. Override to decide otherwise."""
        return status < 400

    async def _unpaid(
        self, quote: Quote, why: CredentialRefused | None = None, rail: Rail[Any] | None = None, credential: Any = None
    ) -> Refusal:
        await self.admission.limit_unpaid(quote)
        if why is None:
            why = EXHAUSTED if self.admission.free_uses.has_tier(quote) else NO_CREDENTIAL
        return await payment_required(self.rails, quote, why, rail, credential)
