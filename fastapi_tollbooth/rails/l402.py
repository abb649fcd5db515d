"""The L402 rail: pay a Lightning invoice once, spend the credit that it bought over many requests.

Challenges are stateless: an unpaid request writes nothing. What a payment buys is signed into the macaroon's
identifier; the account is opened in the ledger when the first request brings proof of payment and the node confirms it.
Source: the L402 protocol specification, https://github.com/lightninglabs/L402.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.errors import ConfigurationError, CredentialRefused, Forbidden, RailUnavailable, Unavailable
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund, Outcome, Reason, Refused, Void
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import Invoice, InvoiceState, LightningBackend, LightningUnavailable
from fastapi_tollbooth.lightning.checking import request_invoice
from fastapi_tollbooth.lightning.dev import DevNode
from fastapi_tollbooth.money import MSAT_PER_SAT, Asset, Money, Rate, divide_up
from fastapi_tollbooth.rails import Authorization, Challenge, RawHeaders, Receipt
from fastapi_tollbooth.rails.caveats import write
from fastapi_tollbooth.rails.l402_credential import L402Credential, Verified, claimed_hash, find, parse, verify
from fastapi_tollbooth.rails.macaroon import Identifier, Kind, mint
from fastapi_tollbooth.rails.owner_caveats import OwnerCaveats, check_owned, minted_for
from fastapi_tollbooth.rails.purchase import purchase
from fastapi_tollbooth.rates import RateSource
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.toll import Quote, Toll

VERIFIED_CREDENTIALS = 10_000
OPEN_CHALLENGES = 10_000
_POLL_SECONDS = 0.1

_Key = tuple[str, Money, tuple[tuple[str, str], ...]]
"""Offers are re-used for the same client, credit and conditions."""


@dataclass(slots=True)
class _Offer:
    """A challenge that may be handed out again while its invoice can still be paid."""

    challenge: Challenge
    payment_hash: bytes
    fresh_until: float
    checked_at: float


class L402Rail:
    """Prepaid credit over Lightning. Implements `Rail`."""

    name = "l402"
    settles_elsewhere = False

    def __init__(
        self,
        settings: TollboothSettings,
        keys: KeyRing,
        ledger: Ledger,
        node: LightningBackend,
        rates: RateSource,
        caveats: OwnerCaveats | None = None,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._ledger = ledger
        self._node = node
        self.for_development = isinstance(node, DevNode)
        self._rates = rates
        self._caveats: OwnerCaveats = {} if caveats is None else caveats
        self._verified: Bounded[bytes, Verified] = Bounded(VERIFIED_CREDENTIALS)
        self._offers: Bounded[_Key, _Offer] = Bounded(OPEN_CHALLENGES)
        self._minting: dict[_Key, asyncio.Future[_Offer]] = {}

    def credential(self, headers: RawHeaders) -> L402Credential | None:
        """Every header form that L402 clients are known to send; other schemes of Authorization are not ours."""
        return find(headers)

    # ── the challenge ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def challenge(self, quote: Quote, presented: L402Credential | None) -> Challenge:
        """An invoice for the top-up, and the macaroon that it pays for. Re-used per client while it can be paid."""
        rate = self._rates.current()
        credit, amount_msat = purchase(self._settings.top_up, quote.price, rate)
        owned = await minted_for(self._caveats, quote.connection) if self._caveats else ()
        key = (quote.client, credit, owned)
        offer = self._offers.get(key)
        if offer is None or not await self._still_good(offer, presented):
            offer = await self._mint_once(key, amount_msat, rate, quote)
        return offer.challenge

    async def _still_good(self, offer: _Offer, presented: L402Credential | None) -> bool:
        now = time.monotonic()
        if now > offer.fresh_until or (presented is not None and offer.payment_hash == claimed_hash(presented)):
            return False
        if now - offer.checked_at >= self._node.capabilities.recheck_seconds:
            try:
                status = await self._node.lookup(offer.payment_hash)
            except LightningUnavailable:
                return False
            offer.checked_at = now
            return status.state is InvoiceState.PENDING
        return True

    async def _mint_once(self, key: _Key, amount_msat: int, rate: Rate | None, quote: Quote) -> _Offer:
        # A crowd of requests that all need the same new challenge causes one invoice.
        minting = self._minting.get(key)
        if minting is not None and minting.get_loop() is asyncio.get_running_loop():
            return await asyncio.shield(minting)
        minting = asyncio.ensure_future(self._mint(key, amount_msat, rate, quote))
        self._minting[key] = minting
        try:
            offer = await asyncio.shield(minting)
        finally:
            if self._minting.get(key) is minting:
                del self._minting[key]
        self._offers.put(key, offer)
        return offer

    async def _mint(self, key: _Key, amount_msat: int, rate: Rate | None, quote: Quote) -> _Offer:
        settings, (_, credit, owned) = self._settings, key
        description = f"{settings.service}: {credit} credit"
        try:
            invoice = await request_invoice(
                self._node, amount_msat, description, settings.invoice_expiry, network=settings.invoice_network
            )
        except LightningUnavailable as error:
            raise RailUnavailable("the Lightning node did not answer") from error
        exchanged = rate if credit.asset is not Asset.BTC else None
        sats = divide_up(amount_msat, MSAT_PER_SAT)
        identifier = Identifier.new(invoice.payment_hash, credit, exchanged, self._keys.newest, sats=sats)
        valid_until = datetime.now(UTC) + timedelta(days=settings.credit_lifetime_days)
        caveats = write(settings.service, int(valid_until.timestamp()), None, owned)
        macaroon = mint(self._keys, identifier, settings.service, caveats)
        challenge = _challenge(invoice, macaroon, credit, quote.price, valid_until)
        now = time.monotonic()
        # Offered again for the first half of its life only, so that whoever gets it has time to pay.
        return _Offer(challenge, invoice.payment_hash, now + settings.invoice_expiry / 2, now)

    # ── the credential ────────────────────────────────────────────────────────────────────────────────────────────────

    async def authorize(self, credential: L402Credential, quote: Quote) -> Authorization:
        """Charge the account behind a credential, opening it when this is the first proof of its payment."""
        digest = credential.digest
        verified = self._verified.get(digest)
        if verified is None:
            verified = verify(self._keys, self._settings.service, self._caveats, parse(credential))
            self._verified.put(digest, verified)
        bounds = verified.bounds
        if bounds.caps:
            raise CredentialRefused("unknown_caveat", "The service cannot enforce a cap on spending yet.")
        bounds.check(quote.route, time.time())
        if bounds.owned:
            await check_owned(self._caveats, bounds.owned, quote.connection)
        if quote.admit is not None:
            await quote.admit(verified.account)

        amount = self._in_asset_of(quote.price, verified.token.identifier.credit.asset)
        account = verified.account_id if verified.account_id is not None else verified.account
        outcome = (await self._ledger.apply(Authorize(account, amount, quote.route)))[-1]
        if isinstance(outcome, Refused) and outcome.reason is Reason.UNKNOWN_ACCOUNT:
            outcome = await self._open_account(verified, Authorize(verified.account, amount, quote.route))
        if not isinstance(outcome, Authorized):
            raise _refusal(outcome, amount)
        if verified.account_id is None:
            self._verified.put(digest, Verified(verified.token, bounds, outcome.account_id))
            self._forget_offer(verified.token.identifier.payment_hash)
        return Authorization(str(outcome.toll), amount, outcome.balance, verified.account, outcome, bounds.shown)

    async def _open_account(self, verified: Verified, authorize: Authorize) -> Outcome:
        identifier = verified.token.identifier
        if identifier.kind is Kind.CREDIT:
            raise CredentialRefused("credit_not_funded", "There is no credit behind this credential.")
        received_msat = await self._settled_amount(identifier.payment_hash)
        payment = Payment(
            rail=self.name,
            spend_key=f"{self.name}:{identifier.payment_hash.hex()}",
            amount=received_msat or identifier.sats * MSAT_PER_SAT,
            asset=Asset.BTC,
            payer=verified.account,
            rate=str(identifier.rate) if identifier.rate else None,
        )
        fund = Fund(verified.account, identifier.credit, payment)
        return (await self._ledger.apply(fund, authorize))[-1]

    async def _settled_amount(self, payment_hash: bytes) -> int:
        # Payers come back faster than settlement is announced, so a pending invoice gets a bounded moment.
        deadline = time.monotonic() + self._settings.settlement_wait
        while True:
            try:
                status = await self._node.lookup(payment_hash)
            except LightningUnavailable:
                status = None
            if status is not None and status.state is InvoiceState.SETTLED:
                return status.amount_received_msat or 0  # not every node says how much
            if status is not None and status.state in (InvoiceState.EXPIRED, InvoiceState.FAILED):
                raise CredentialRefused("invoice_not_paid", "The invoice behind this credential was never paid.")
            if time.monotonic() >= deadline:
                raise Unavailable(
                    "settlement_unconfirmed",
                    "The payment is not confirmed yet. Do not pay again: send the same credential in a moment.",
                )
            await asyncio.sleep(_POLL_SECONDS)

    def _in_asset_of(self, price: Money, asset: Asset) -> Money:
        if price.asset is asset:
            return price
        rate = self._rates.current()
        if rate is None:
            raise Unavailable("no_exchange_rate", f"There is no exchange rate to charge {price} to {asset} credit.")
        try:
            return rate.convert_up(price, asset)
        except ConfigurationError as error:
            raise CredentialRefused("insufficient_credit", f"No credit covers {price}.") from error

    def _forget_offer(self, payment_hash: bytes) -> None:
        self._offers.drop(lambda offer: offer.payment_hash == payment_hash)

    # ── the toll ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def hold(self, toll: Toll) -> Receipt:
        """The credit is promised already; while the response runs, all that is held counts as spent."""
        return Receipt((("X-Credit-Balance", str(toll.balance)),))

    async def capture(self, toll: Toll) -> Receipt:
        """Post the charge in a later batch: the money is here already, so the response need not wait."""
        authorized: Authorized = toll.authorization
        used = None if toll.charge == toll.amount else toll.charge.amount
        self._ledger.apply_later(Capture(authorized.account_id, authorized.toll, used, served=True))
        return Receipt((("X-Credit-Balance", str(toll.balance_after)),))

    async def void(self, toll: Toll) -> None:
        """Give the credit back in a later batch."""
        authorized: Authorized = toll.authorization
        self._ledger.apply_later(Void(authorized.account_id, authorized.toll))

    async def reconcile(self) -> int:
        """Nothing is left open: an account is opened when its money has come, and open tolls are the ledger's."""
        return 0

    async def aclose(self) -> None:
        """The node is closed by whoever opened it."""

    # ── the documentation ─────────────────────────────────────────────────────────────────────────────────────────────

    def security_scheme(self) -> dict[str, Any]:
        """An ``apiKey`` in ``Authorization``: OpenAPI's ``http`` scheme would be taken for a bearer token."""
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": (
                "Prepaid credit over Lightning. Pay the invoice of the 402, then send "
                "`Authorization: L402 <macaroon>:<preimage>` until the credit is spent."
            ),
            "x-l402-scheme": "L402",
        }

    def offer(self, price: Money | None) -> dict[str, Any]:
        """Prepaid credit, charged the price of each request."""
        return {
            "intent": "charge",
            "method": "lightning",
            "amount": None if price is None else str(price.amount),
            "currency": None if price is None else ("usd-micro" if price.asset is Asset.USD else "msat"),
        }


def _challenge(invoice: Invoice, macaroon: str, credit: Money, price: Money, valid_until: datetime) -> Challenge:
    sats = divide_up(invoice.amount_msat, MSAT_PER_SAT)
    members: dict[str, Any] = {
        "invoice": invoice.bolt11,
        "macaroon": macaroon,
        "paymentHash": invoice.payment_hash.hex(),
        "amountSats": sats,
        "priceSats": sats,
        "expiresAt": _timestamp(invoice.expires_at),
        "credential": {
            "scheme": "L402",
            "reusable": True,
            "credit": str(credit),
            "validUntil": _timestamp(valid_until),
            "usage": "Send it with every request until the credit is spent; each request costs its own price.",
        },
    }
    if credit.asset is price.asset:
        members["credential"]["requests"] = credit.amount // price.amount
    header = f'L402 macaroon="{macaroon}", invoice="{invoice.bolt11}"'
    return Challenge((("WWW-Authenticate", header),), members, invoice.expires_at)


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _refusal(outcome: Outcome, amount: Money) -> Exception:
    if not isinstance(outcome, Refused):
        return TypeError(f"the ledger answered an authorization with {outcome!r}")
    match outcome.reason:
        case Reason.INSUFFICIENT:
            return CredentialRefused(
                "insufficient_credit",
                f"The credit left is {outcome.balance}, and {amount} is needed. Buy new credit.",
                members={"balance": str(outcome.balance)},
            )
        case Reason.REVOKED:
            return Forbidden("credential_revoked", "This credential was revoked by the service.")
        case Reason.EXPIRED:
            return CredentialRefused("credit_expired", "The credit behind this credential has expired.")
        case reason:
            return CredentialRefused(reason.value, "The ledger does not accept this credential.")
