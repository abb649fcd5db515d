"""The x402 rail: one signed stablecoin payment for one request, settled through a facilitator.

A challenge needs nobody and writes nothing. Money moves after the handler has succeeded, or before it runs where the
owner says so; `settling.py` has the order of steps.
"""

import asyncio
import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.errors import ConfigurationError, CredentialRefused, RailUnavailable
from fastapi_tollbooth.keeping import Keeping
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.money import MICRO_PER_USD, Asset, Money
from fastapi_tollbooth.rails import Answered, Authorization, Challenge, RawHeaders, Receipt
from fastapi_tollbooth.rails.credit import mint_credit
from fastapi_tollbooth.rails.x402 import identifiers
from fastapi_tollbooth.rails.x402.accepted import Accepted, accepted
from fastapi_tollbooth.rails.x402.amounts import atomic_amount, can_express
from fastapi_tollbooth.rails.x402.answers import Answers, named
from fastapi_tollbooth.rails.x402.bazaar import described
from fastapi_tollbooth.rails.x402.challenge import Resource, payment_required
from fastapi_tollbooth.rails.x402.facilitator import NoAnswer
from fastapi_tollbooth.rails.x402.history import Known
from fastapi_tollbooth.rails.x402.offers import SCHEME, Offer, chosen
from fastapi_tollbooth.rails.x402.order import RAIL, Held, Order, receipt_of
from fastapi_tollbooth.rails.x402.payments import Asked, mismatch, read_payment, wrong_amount
from fastapi_tollbooth.rails.x402.quotes import Quoted, Quotes, Subject, expiry, subject_of
from fastapi_tollbooth.rails.x402.resource import resource_url
from fastapi_tollbooth.rails.x402.sealing import Answer
from fastapi_tollbooth.rails.x402.settling import Settler
from fastapi_tollbooth.rails.x402.transport import KeepAliveTransport
from fastapi_tollbooth.rails.x402.wire import Envelope, X402Credential, digest, find, parse
from fastapi_tollbooth.rates import RateSource
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.toll import Quote, Toll

CHALLENGES = 1_000
RATE_DRIFT = 0.02
"""How far the amount of a price in bitcoin may have moved, by the exchange rate, between the 402 and its payment."""
FEE_PAYER_SECONDS = 3_600.0

_Key = tuple[object, ...]
"""All that a challenge depends on."""


class X402Rail:
    """Stablecoins per request. Implements `Rail`."""

    name = RAIL
    settles_elsewhere = True

    def __init__(
        self, settings: TollboothSettings, ledger: Ledger, rates: RateSource, keys: KeyRing | None = None
    ) -> None:
        """``keys`` sign quotes, and credentials for what metered requests leave; without them there are none."""
        self._settings = settings
        self._rates = rates
        self._keys = keys
        self._quotes = None if keys is None else Quotes(keys)
        self._accepted = accepted(settings.x402, production=settings.environment == "production")
        self._settler = Settler(ledger, self._opened)
        kept, deadline = settings.x402.answers_kept, settings.toll_deadline
        self._answers = Answers(ledger, self._settler, timedelta(seconds=kept), timedelta(seconds=deadline))
        self._challenges: Bounded[_Key, tuple[str, dict[str, Any]]] = Bounded(CHALLENGES)
        self._fee_payers: dict[str, tuple[str, float]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def credential(self, headers: RawHeaders) -> X402Credential | None:
        """The lines of ``PAYMENT-SIGNATURE`` or ``X-PAYMENT``."""
        return find(headers)

    # ── the challenge ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def challenge(self, quote: Quote, presented: X402Credential | None) -> Challenge:
        """What to sign, for both versions of the protocol. Asks nobody, and is the same for everybody."""
        url = self._url(quote)
        rate = None if quote.price.asset is Asset.USD else self._rates.current()
        fee_payers = tuple(self._fee_payer(place) for place in self._accepted if not place.network.is_evm)
        quoted = Quoted(quote.price, expiry(time.time(), self._settings.x402.max_timeout))
        key = (self._subject(quote), quoted, quote.terms.settle, quote.terms.description, rate, fee_payers)
        made = self._challenges.get(key)
        if made is None:
            offers = [self._signed(offer, quoted, quote) for _, offer in self._offers(quote)]
            if not offers:
                raise RailUnavailable("no network can take this price now")
            made = payment_required(Resource(url, quote.terms.description or ""), offers, self._extensions(quote))
            self._challenges.put(key, made)
        header, members = made
        expires_at = datetime.now(UTC) + timedelta(seconds=self._settings.x402.max_timeout)
        return Challenge((("PAYMENT-REQUIRED", header),), members, expires_at)

    def takes(self, price: Money) -> bool:
        """Whether any of the tokens can express a price."""
        return any(can_express(price, place.network.token.decimals) for place in self._accepted)

    def _extensions(self, quote: Quote) -> dict[str, Any]:
        found, wanted = {}, self._settings.x402.identifiers
        if wanted != "off" and quote.connection.scope["type"] == "http":
            found[identifiers.EXTENSION] = identifiers.declaration(required=wanted == "required")
        declared = described(quote) if self._settings.x402.discovery else None
        return found if declared is None else found | {"bazaar": declared}

    def _offers(self, quote: Quote) -> list[tuple[Accepted, Offer]]:
        found = []
        flow = quote.terms.settle or self._settings.x402.settle
        for place in self._accepted:
            fee_payer = None if place.network.is_evm else self._fee_payer(place)
            if not place.network.is_evm and fee_payer is None:
                continue
            try:
                amount = atomic_amount(quote.price, place.network.token.decimals, self._rates.current())
            except ConfigurationError:
                continue
            asked = Asked(place.network, amount, place.pay_to)
            found.append((place, Offer(asked, self._settings.x402.max_timeout, flow, fee_payer)))
        return found

    def _url(self, quote: Quote) -> str:
        return resource_url(quote.connection.scope, self._settings.public_url, self._settings.trusted_proxies)

    def _subject(self, quote: Quote) -> Subject:
        return subject_of(self._settings.service, self._url(quote), quote)

    def _signed(self, offer: Offer, quoted: Quoted, quote: Quote) -> Offer:
        # What buys credit is as dear as its payer says.
        if self._quotes is None or quote.terms.buys_credit:
            return offer
        return replace(offer, quote=self._quotes.sign(quoted, self._subject(quote), offer.asked))

    def _quoted(self, envelope: Envelope, paid: Asked, quote: Quote) -> Quoted | None:
        """What we have asked for this request at some time, if a payment of this amount says so and it is true."""
        if self._quotes is None or envelope.quote is None:
            return None
        return self._quotes.read(envelope.quote, self._subject(quote), paid)

    # ── the credential ────────────────────────────────────────────────────────────────────────────────────────────────

    async def authorize(self, credential: X402Credential, quote: Quote) -> Authorization:
        """Check a payment and take it for this request, durably; move its money now where the owner wants that."""
        envelope = parse(credential)
        identifier = self._identifier(envelope)
        offers = self._offers(quote)
        offer = chosen(envelope, [offer for _, offer in offers])
        place = next(place for place, each in offers if each is offer)
        payment = read_payment(envelope.payload, offer.asked)
        asked = _as_signed(offer.asked, payment.amount) if quote.price.asset is not Asset.USD else offer.asked
        paid = asked._replace(amount=payment.amount)
        quoted = self._quoted(envelope, paid, quote)
        holds = None if asked == paid else quoted
        asked = asked if holds is None else paid
        taken = replace(offer, asked=asked, quote=None if quoted is None else envelope.quote)
        order = Order(
            accepted=place,
            payment=payment,
            value=_money(asked, payment.amount),
            price=_money(asked, asked.amount),
            route=quote.route,
            body=self._question(envelope, taken, quote),
            digest=digest(envelope.sent),
            buys_credit=quote.terms.buys_credit,
        )
        late = holds is not None and holds.expires_at < time.time()
        refusal = wrong_amount() if late else mismatch(payment, asked, time.time()) or await self._settler.verify(order)
        # Of a payment that was made, or may have been, the ledger knows more than whoever refuses it now.
        known = None if refusal is None else await self._settler.known(payment.spend_key)
        if refusal is not None and not _came_in_time(known, holds):
            raise refusal
        payer = f"{place.network.id}:{payment.payer}"
        # Payer and nonce are public: for whoever sends them with another signature, nothing is counted or written.
        is_altered = known is not None and known.is_altered(order.digest)
        if quote.admit is not None and not is_altered:
            await quote.admit(payer)
        if identifier is not None and not is_altered:
            name = await named(quote.connection, self._url(quote), payer, identifier, envelope.sent)
            order = replace(order, named=name)
        held = await self._answers.hold(order)
        if isinstance(held, Answer):
            raise await self._answered(order, held, quote)
        if refusal is not None and not held.settled:  # it has come to nothing meanwhile
            await self._settler.let_go(held)
            raise refusal
        if offer.flow == "before" and not held.settled:
            held = await self._settler.settle_first(held)
        price = None if holds is None else holds.price
        keeping = None if order.named is None else Keeping()
        state = (envelope.version, held)
        return Authorization(str(held.toll), order.price, None, payer, state, price=price, keeping=keeping)

    def _identifier(self, envelope: Envelope) -> str | None:
        wanted = self._settings.x402.identifiers
        return None if wanted == "off" else identifiers.read(envelope.extensions, required=wanted == "required")

    async def _answered(self, order: Order, answer: Answer, quote: Quote) -> Answered:
        known = await self._settler.known(order.payment.spend_key)
        receipt = receipt_of(2, order, known.reference or "") if known is not None else ()
        rest = self._rest(order) if quote.terms.metered else ()
        return Answered(answer.response, Receipt((*receipt, *rest)))

    def _question(self, envelope: Envelope, offer: Offer, quote: Quote) -> dict[str, Any]:
        if envelope.version == 1:
            requirements = offer.v1(self._url(quote), quote.terms.description or "")
        else:
            requirements = offer.v2()
        return {
            "x402Version": envelope.version,
            "paymentPayload": envelope.raw,
            "paymentRequirements": requirements,
        }

    # ── the toll ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def hold(self, toll: Toll) -> Receipt:
        """Have the money of a metered request moved, all that it may cost; what it does not use is credit then."""
        version, held = toll.authorization
        await self._answers.keep(held, toll)
        if not held.settled:
            try:
                held = await self._settler.settle_first(held)
            except CredentialRefused as refused:
                refused.headers = receipt_of(version, held.order, "", str(refused.members.get("settlementReason", "")))
                raise
            toll.authorization, toll.id = (version, held), str(held.toll)
        return Receipt((*receipt_of(version, held.order, held.reference), *self._rest(held.order)))

    def _rest(self, order: Order) -> tuple[tuple[str, str], ...]:
        """The credential for what the request will not have used; whoever is served is who has paid."""
        if self._keys is None:
            return ()
        valid_until = datetime.now(UTC) + timedelta(days=self._settings.credit_lifetime_days)
        account = order.payment.spend_key
        minted = mint_credit(self._keys, self._settings.service, account, Asset.USD, valid_until)
        return (("X-Credit-Authorization", minted.authorization),)

    async def capture(self, toll: Toll) -> Receipt:
        """Have the money moved, unless it has been, and say by which transaction."""
        version, held = toll.authorization
        if not toll.metered:
            await self._answers.keep(held, toll)
        try:
            transaction = await self._settler.deliver(held, toll.charge, served=toll.metered)
        except CredentialRefused as refused:
            refused.headers = receipt_of(version, held.order, "", str(refused.members.get("settlementReason", "")))
            raise
        return Receipt(receipt_of(version, held.order, transaction) if transaction else ())

    async def void(self, toll: Toll) -> None:
        """Let go of the claim; where the money has moved, the payment is good for the same request again."""
        await self._settler.let_go(toll.authorization[1])

    async def reconcile(self) -> int:
        """Find out what became of payments that a crash or a lost answer left open; of how many it is known now."""
        places = {place.network.id: place for place in self._accepted}
        return await self._settler.reconcile(places, timedelta(seconds=self._settings.toll_deadline))

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        for task in self._asking:
            task.cancel()
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    # ── the documentation ─────────────────────────────────────────────────────────────────────────────────────────────

    def security_scheme(self) -> dict[str, Any]:
        """An ``apiKey`` in ``PAYMENT-SIGNATURE``."""
        return {
            "type": "apiKey",
            "in": "header",
            "name": "PAYMENT-SIGNATURE",
            "description": (
                "A stablecoin payment per request (x402). Sign one entry of the 402's `PAYMENT-REQUIRED` and send it "
                "in `PAYMENT-SIGNATURE`; version 1 of the protocol, `X-PAYMENT`, is understood too."
            ),
        }

    def offer(self, price: Money | None) -> dict[str, Any]:
        """One signed payment per request, on any of the networks."""
        return {
            "intent": "charge",
            "method": RAIL,
            "scheme": SCHEME,
            "networks": [place.network.id for place in self._accepted],
            "amount": str(price.amount) if price is not None and price.asset is Asset.USD else None,
            "currency": "usd-micro",
        }

    # ── facilitators ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _fee_payer(self, place: Accepted) -> str | None:
        """Who pays Solana's fees, as far as the facilitator has said; it is asked beside the request, never during."""
        known, fresh_until = self._fee_payers.get(place.network.id, (None, 0.0))
        if time.monotonic() > fresh_until:
            self._fee_payers[place.network.id] = (known or "", time.monotonic() + CONNECT_AGAIN_SECONDS)
            task = asyncio.get_running_loop().create_task(self._ask_fee_payer(place))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        return known or None

    async def _ask_fee_payer(self, place: Accepted) -> None:
        with contextlib.suppress(NoAnswer):
            for kind in await place.facilitator.supported(self._opened()):
                extra = kind.get("extra")
                names = (place.network.id, place.network.name)
                if kind.get("scheme") == SCHEME and kind.get("network") in names and isinstance(extra, dict):
                    fresh_until = time.monotonic() + FEE_PAYER_SECONDS
                    self._fee_payers[place.network.id] = (str(extra.get("feePayer", "")), fresh_until)

    def _opened(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            left, left_loop = self._client, self._loop
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            self._client, self._loop = httpx.AsyncClient(transport=KeepAliveTransport(), headers=headers), loop
            # Connections belong to the event loop that opened them.
            if left is not None and left_loop is not None and not left_loop.is_closed():
                asyncio.run_coroutine_threadsafe(left.aclose(), left_loop)
        return self._client


CONNECT_AGAIN_SECONDS = 10.0


def account_of(authorization: Authorization) -> str:
    """The key of the account that a payment's money is kept on: each payment has one of its own."""
    held: Held = authorization.state[1]
    return held.order.payment.spend_key


def _came_in_time(known: Known | None, quoted: Quoted | None) -> bool:
    return known is not None and (quoted is None or known.updated_at.timestamp() <= quoted.expires_at)


def _as_signed(asked: Asked, signed: int) -> Asked:
    near = abs(signed - asked.amount) <= asked.amount * RATE_DRIFT
    return asked._replace(amount=signed) if near else asked


def _money(asked: Asked, atomic: int) -> Money:
    return Money(min(atomic * MICRO_PER_USD // 10**asked.network.token.decimals, 2**63 - 1), Asset.USD)
