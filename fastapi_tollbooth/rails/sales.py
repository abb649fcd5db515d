"""What is sold to whom: from the price of a request, the caller's choice and the caller's account to an offer."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import HTTPConnection

from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.bundles import BUNDLE_HEADER, Bundle, chosen
from fastapi_tollbooth.errors import AmbiguousRequest, ConfigurationError, RailUnavailable
from fastapi_tollbooth.money import Asset, Money, Rate
from fastapi_tollbooth.rails import Challenge, as_text
from fastapi_tollbooth.rails.invoice_offers import Offer, Offers, Order
from fastapi_tollbooth.rails.l402_credential import Verified
from fastapi_tollbooth.rails.owner_caveats import OwnerCaveats, minted_for
from fastapi_tollbooth.rails.purchase import Purchase, bundle_purchase, exchange, purchase
from fastapi_tollbooth.rates import RateSource
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.toll import Quote

INVOICES_PATH = "/tollbooth/invoices"
PRICE_HEADER = "X-L402-Price-Sats"
WORDED_CHALLENGES = 1_000
_BUNDLE_HEADER = BUNDLE_HEADER.lower().encode()


class Sales:
    """Sells credit for one service."""

    def __init__(self, settings: TollboothSettings, offers: Offers, rates: RateSource, caveats: OwnerCaveats) -> None:
        self._settings = settings
        self._offers = offers
        self._rates = rates
        self._caveats = caveats
        self._worded: Bounded[tuple[bytes, Money, str, Rate | None], Challenge] = Bounded(WORDED_CHALLENGES)

    async def challenge(self, quote: Quote, presented: Verified | None, used: Sequence[bytes]) -> Challenge:
        """What a request that has not paid is offered.

        Args:
            quote: What the request costs.
            presented: The good credential whose account had too little, to be topped up.
            used: Payment hashes that are not to be offered again.

        Raises:
            AmbiguousRequest: the caller asks for a bundle that is not offered here.
            RailUnavailable: there is nothing that can be offered now.
        """
        rate = self._rates.current()
        if quote.connection is not None and quote.connection.scope.get("method") == "HEAD":
            return _probed(purchase(1, quote.price, rate))
        owned = await self._owned(quote.connection)
        account, asset = _to_top_up(presented, owned)
        bundles = self._bundles(quote.price, asset, rate)
        # Of those that cover the price: nobody pays and is asked again for the same request.
        bundle = chosen(list(bundles), _choices(quote.connection))
        if bundle is None:
            bought = self._default(quote.terms.top_up or self._settings.top_up, quote.price, asset, rate)
        else:
            bought = bundles[bundle]
        order = Order(quote.client, bought.credit, bundle, account, owned)
        offer = await self._offers.offer(order, bought, rate, used)
        # The same offer at the same price is worded once, however many callers meet it.
        key = (offer.invoice.payment_hash, quote.price, _prefix(quote.connection), rate if bundles else None)
        challenge = self._worded.get(key)
        if challenge is None:
            challenge = _challenge(offer, quote.price, key[2], bundles)
            self._worded.put(key, challenge)
        return challenge

    async def invoice(
        self, connection: HTTPConnection, client: str, choice: str | None, presented: Verified | None
    ) -> dict[str, Any]:
        """What somebody is offered who asks for credit as such, not for a request.

        Raises:
            AmbiguousRequest: there is no such bundle, or only the price of a request could say what to buy.
            RailUnavailable: there is nothing that can be offered now.
        """
        rate = self._rates.current()
        owned = await self._owned(connection)
        account, asset = _to_top_up(presented, owned)
        if presented is not None and account is None:
            raise AmbiguousRequest(
                "cannot_top_up", "This credential was narrowed, or has other conditions: buy new credit."
            )
        bundle = chosen(self._settings.bundles, [] if choice is None else [choice])
        top_up = self._settings.top_up
        if bundle is not None:
            bought = bundle_purchase(bundle, None, asset or bundle.get.asset, rate)
        elif isinstance(top_up, Money):
            bought = self._default(top_up, top_up, asset, rate)
        else:
            names = ", ".join(str(bundle.pay) for bundle in self._settings.bundles) or "none"
            raise AmbiguousRequest(
                "unknown_bundle", f'Choose a bundle by what it costs, as in {{"bundle": "..."}}: {names}.'
            )
        offer = await self._offers.offer(Order(client, bought.credit, bundle, account, owned), bought, rate)
        return _members(offer, _prefix(connection))

    def _default(self, top_up: int | Money, price: Money, asset: Asset | None, rate: Rate | None) -> Purchase:
        try:
            if asset is not None:
                price = exchange(price, asset, rate, up=True)
                top_up = top_up if isinstance(top_up, int) else exchange(top_up, asset, rate, up=False)
        except ConfigurationError as error:
            raise RailUnavailable("the amount is out of range") from error
        return purchase(top_up, price, rate, self._settings.min_invoice)

    def _bundles(self, price: Money, asset: Asset | None, rate: Rate | None) -> dict[Bundle, Purchase]:
        covering = {}
        for bundle in self._settings.bundles:
            with contextlib.suppress(RailUnavailable):
                covering[bundle] = bundle_purchase(bundle, price, asset or bundle.get.asset, rate)
        return covering

    async def _owned(self, connection: HTTPConnection | None) -> tuple[tuple[str, str], ...]:
        return await minted_for(self._caveats, connection) if self._caveats and connection is not None else ()


def _to_top_up(presented: Verified | None, owned: tuple[tuple[str, str], ...]) -> tuple[str | None, Asset | None]:
    # The new macaroon must not be good for more than the one that was presented: a holder who was given a narrowed one,
    # or one with other conditions, buys an account of their own.
    if presented is None or not presented.credited or presented.bounds.narrowed:
        return None, None
    if tuple(presented.bounds.shown.items()) != owned:
        return None, None
    return presented.account, presented.asset


def _choices(connection: HTTPConnection | None) -> list[str]:
    lines = () if connection is None else connection.scope["headers"]
    return [value.decode("latin-1") for name, value in lines if name == _BUNDLE_HEADER]


def _prefix(connection: HTTPConnection | None) -> str:
    scope = {} if connection is None else connection.scope
    return str(scope.get("app_root_path", scope.get("root_path", "")))


def _probed(one: Purchase) -> Challenge:
    return Challenge(((PRICE_HEADER, str(one.sats)),), {}, datetime.now(UTC))


def _challenge(offer: Offer, price: Money, prefix: str, bundles: Mapping[Bundle, Purchase]) -> Challenge:
    members = _members(offer, prefix)
    if offer.order.credit.asset is price.asset:
        members["credential"]["requests"] = offer.order.credit.amount // price.amount
    if bundles:
        members["bundles"] = [
            {"pay": str(bundle.pay), "get": str(bundle.get), "amountSats": each.sats}
            for bundle, each in bundles.items()
        ]
    header = f'L402 macaroon="{offer.macaroon}", invoice="{offer.invoice.bolt11}"'
    return Challenge((("WWW-Authenticate", header),), members, offer.invoice.expires_at)


def _members(offer: Offer, prefix: str) -> dict[str, Any]:
    payment_hash = offer.invoice.payment_hash.hex()
    return {
        "invoice": offer.invoice.bolt11,
        "macaroon": offer.macaroon,
        "paymentHash": payment_hash,
        "amountSats": offer.sats,
        "priceSats": offer.sats,
        "expiresAt": as_text(offer.invoice.expires_at),
        "statusUrl": f"{prefix}{INVOICES_PATH}/{payment_hash}?token={offer.status_token}",
        "credential": {
            "scheme": "L402",
            "reusable": True,
            "credit": str(offer.order.credit),
            "topsUp": offer.order.account is not None,
            "validUntil": as_text(offer.valid_until),
            "usage": "Send it with every request until the credit is spent; each request costs its own price.",
        },
    }
