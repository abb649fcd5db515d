"""The L402 rail: pay a Lightning invoice once, spend the credit that it bought over many requests.

Challenges are stateless: an unpaid request writes nothing. What a payment buys is signed into the macaroon's
identifier; the account is opened in the ledger when the first request brings proof of payment and the node confirms it.
Source: the L402 protocol specification, https://github.com/lightninglabs/L402.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import HTTPConnection

from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.errors import ConfigurationError, CredentialRefused, Forbidden, RailUnavailable, Unavailable
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    Authorized,
    Capture,
    Fund,
    Outcome,
    Reason,
    Refused,
    Resolved,
    Void,
)
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import InvoiceState, LightningBackend
from fastapi_tollbooth.lightning.dev import DevNode
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rails import Authorization, Challenge, RawHeaders, Receipt
from fastapi_tollbooth.rails.invoice_offers import Offers
from fastapi_tollbooth.rails.invoice_token import read_invoice_token
from fastapi_tollbooth.rails.l402_credential import L402Credential, Verified, claimed_hash, find, parse, verify
from fastapi_tollbooth.rails.macaroon import Kind
from fastapi_tollbooth.rails.node_guard import GuardedNode
from fastapi_tollbooth.rails.owner_caveats import OwnerCaveats, check_owned
from fastapi_tollbooth.rails.sales import Sales
from fastapi_tollbooth.rails.settlements import Credit, Settlements
from fastapi_tollbooth.rates import RateSource
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.toll import Quote, Toll

VERIFIED_CREDENTIALS = 10_000
EARLY = 0.5
"""The part of a toll's deadline in which nobody can have resolved it but its own request."""


class L402Rail:
    """Prepaid credit over Lightning. Implements `Rail`.

    Without a node it takes credentials for credit that other rails have sold (`credit.py`), and offers nothing itself.
    """

    name = "l402"
    settles_elsewhere = False

    def __init__(
        self,
        settings: TollboothSettings,
        keys: KeyRing,
        ledger: Ledger,
        node: LightningBackend | None,
        rates: RateSource,
        caveats: OwnerCaveats | None = None,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._ledger = ledger
        self.for_development = isinstance(node, DevNode)
        self._rates = rates
        self._caveats: OwnerCaveats = {} if caveats is None else caveats
        self._verified: Bounded[bytes, Verified] = Bounded(VERIFIED_CREDENTIALS)
        self._has_node = node is not None
        # A moment more than its own client gives it, which knows better what went wrong.
        guarded = GuardedNode(node, settings.invoice_network, settings.lightning.timeout + 1)
        self._offers = Offers(settings, keys, guarded)
        self._settlements = Settlements(settings, ledger, guarded)
        self._sales = Sales(settings, self._offers, rates, self._caveats)

    def credential(self, headers: RawHeaders) -> L402Credential | None:
        """Every header form that L402 clients are known to send; other schemes of Authorization are not ours."""
        return find(headers)

    # ── the challenge ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def challenge(self, quote: Quote, presented: L402Credential | None) -> Challenge:
        """An invoice for the top-up, and the macaroon that it pays for. Re-used per client while it can be paid.

        Whoever presented a credential whose credit does not suffice tops it up; its new macaroon and the old one then
        spend the same account. HEAD is told what the request costs, and no invoice is made.

        Raises:
            AmbiguousRequest: the caller asks for a bundle that is not offered here.
            RailUnavailable: there is no invoice to be had.
        """
        self._require_node()
        verified = None if presented is None else self._verified.get(presented.digest)
        claimed = None if presented is None else claimed_hash(presented)
        return await self._sales.challenge(quote, verified, () if claimed is None else (claimed,))

    async def invoice(
        self, connection: HTTPConnection, client: str, bundle: str | None, presented: L402Credential | None
    ) -> dict[str, Any]:
        """Sell credit to somebody who asks for it as such; with a credential, more credit for its account.

        Raises:
            CredentialRefused: the credential is not good.
            Forbidden: it was revoked.
            AmbiguousRequest: there is no such bundle.
            RailUnavailable: there is no invoice to be had.
            Unavailable: whether the credential is good cannot be known now.
        """
        self._require_node()
        verified = None if presented is None else await self._good(presented, connection)
        return await self._sales.invoice(connection, client, bundle, verified)

    async def status(self, payment_hash: str, token: str) -> str | None:
        """What has become of an invoice: pending, settled or expired. One that is settled is credited from now on.

        None when the token does not belong to it.

        Raises:
            Unavailable: the node does not say.
        """
        claim = read_invoice_token(self._keys, token)
        if claim is None or claim.identifier.payment_hash.hex() != payment_hash:
            return None
        hash_ = claim.identifier.payment_hash
        if await self._settlements.is_credited(hash_):
            return "settled"
        status = await self._settlements.looked_at(hash_)
        if status.state is InvoiceState.SETTLED:
            await self._ledger.apply(self._settlements.fund(claim.identifier, claim.account, status))
            self._offers.forget(hash_)
            return "settled"
        # What a node does not know may still turn out to be settled, however late it is.
        late = status.state is InvoiceState.PENDING and claim.expires_at <= datetime.now(UTC)
        return "expired" if late or status.state in (InvoiceState.EXPIRED, InvoiceState.FAILED) else "pending"

    # ── the credential ────────────────────────────────────────────────────────────────────────────────────────────────

    async def authorize(self, credential: L402Credential, quote: Quote) -> Authorization:
        """Charge the account behind a credential, opening it when this is the first proof of its payment."""
        verified = self._opened(credential)
        bounds = verified.bounds
        bounds.check(quote.route, time.time())
        if bounds.owned and quote.connection is not None:
            await check_owned(self._caveats, bounds.owned, quote.connection)
        if quote.admit is not None:
            await quote.admit(verified.account)
        if not verified.credited and verified.tops_up:
            # Its account is there already, so nothing but the ledger's own records tells whether it was credited.
            verified = await self._ensure_credited(credential, verified)
        price = quote.price
        amount = price if price.asset is verified.asset else self._exchanged(price, verified.asset)
        account = verified.account if verified.account_id is None else verified.account_id
        authorize = Authorize(account, amount, quote.route, bounds.caps)
        outcome = (await self._ledger.apply(authorize))[-1]
        if isinstance(outcome, Refused) and outcome.reason is Reason.UNKNOWN_ACCOUNT:
            outcome = (await self._ledger.apply(await self._funding(verified), authorize))[-1]
        if not verified.credited or (verified.account_id is None and isinstance(outcome, Authorized)):
            account_id = outcome.account_id if isinstance(outcome, Authorized) else None
            self._remember(credential, replace(verified, credited=True, account_id=account_id))
        if not isinstance(outcome, Authorized):
            raise _refusal(outcome, amount)
        state = (outcome, time.monotonic())
        return Authorization(str(outcome.toll), amount, outcome.balance, verified.account, state, bounds.shown)

    async def credit(self, credential: L402Credential, connection: HTTPConnection) -> Credit:
        """The credit behind a credential, opened if this is the first proof of its payment.

        Raises:
            CredentialRefused: the credential is not good.
            Forbidden: it was revoked.
            Unavailable: whether it is good cannot be known now.
        """
        return await self._settlements.credit_of((await self._good(credential, connection)).account)

    async def _good(self, credential: L402Credential, connection: HTTPConnection) -> Verified:
        verified = self._opened(credential)
        verified.bounds.check(None, time.time())
        await check_owned(self._caveats, verified.bounds.owned, connection)
        return verified if verified.credited else await self._ensure_credited(credential, verified)

    def _require_node(self) -> None:
        if not self._has_node:
            raise RailUnavailable("there is no Lightning node")

    def _opened(self, credential: L402Credential) -> Verified:
        digest = credential.digest
        verified = self._verified.get(digest)
        if verified is None:
            verified = verify(self._keys, self._settings.service, self._caveats, parse(credential))
            self._verified.put(digest, verified)
        return verified

    def _remember(self, credential: L402Credential, verified: Verified) -> None:
        self._verified.put(credential.digest, verified)
        self._offers.forget(verified.token.identifier.payment_hash)

    async def _ensure_credited(self, credential: L402Credential, verified: Verified) -> Verified:
        if verified.token.identifier.kind is Kind.CREDIT:
            await self._settlements.credit_of(verified.account)
        elif not await self._settlements.is_credited(verified.token.identifier.payment_hash):
            outcome = (await self._ledger.apply(await self._funding(verified)))[-1]
            if isinstance(outcome, Refused):
                raise _refusal(outcome, verified.token.identifier.credit)
        verified = replace(verified, credited=True)
        self._remember(credential, verified)
        return verified

    async def _funding(self, verified: Verified) -> Fund:
        identifier = verified.token.identifier
        if identifier.kind is Kind.CREDIT:
            raise CredentialRefused("credit_not_funded", "There is no credit behind this credential.")
        status = await self._settlements.confirmed(identifier.payment_hash)
        return self._settlements.fund(identifier, verified.account, status)

    def _exchanged(self, price: Money, asset: Asset) -> Money:
        rate = self._rates.current()
        if rate is None:
            raise Unavailable("no_exchange_rate", f"There is no exchange rate to charge {price} to {asset} credit.")
        try:
            return rate.convert_up(price, asset)
        except ConfigurationError as error:
            raise CredentialRefused("insufficient_credit", f"No credit covers {price}.") from error

    # ── the toll ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def hold(self, toll: Toll) -> Receipt:
        """The credit is promised already; while the response runs, all that is held counts as spent."""
        return Receipt((("X-Credit-Balance", str(toll.balance)),))

    async def capture(self, toll: Toll) -> Receipt:
        """Post the charge in a later batch: the money is here already, so the response need not wait.

        Unless it took so long that the sweeper may have given the money back: then it waits, and is withheld if so.
        """
        authorized, began = toll.authorization
        charge = toll.charge
        used = None if charge is toll.amount else charge.amount
        is_late = not toll.metered and time.monotonic() - began > EARLY * self._settings.toll_deadline
        capture = Capture(authorized.account_id, authorized.toll, used, not is_late)
        if not is_late:
            self._ledger.apply_later(capture)
        elif (await self._ledger.apply(capture))[-1] != Resolved("post"):
            raise Unavailable("toll_expired", "The request took too long, and nothing was charged. Send it again.")
        return Receipt((("X-Credit-Balance", str(toll.balance_after(charge))),))

    async def void(self, toll: Toll) -> None:
        """Give the credit back in a later batch."""
        authorized, _ = toll.authorization
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
        """Prepaid credit, charged the price of each request; empty where there is no node to pay."""
        if not self._has_node:
            return {}
        return {
            "intent": "charge",
            "method": "lightning",
            "amount": None if price is None else str(price.amount),
            "currency": None if price is None else ("usd-micro" if price.asset is Asset.USD else "msat"),
        }


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
        case Reason.CAPPED:
            return CredentialRefused(
                "spend_cap_reached",
                f"This credential was narrowed: it may spend {outcome.balance} more, and {amount} is needed.",
                members={"spendable": str(outcome.balance)},
            )
        case Reason.REVOKED:
            return Forbidden("credential_revoked", "This credential was revoked by the service.")
        case Reason.EXPIRED:
            return CredentialRefused("credit_expired", "The credit behind this credential has expired.")
        case reason:
            return CredentialRefused(reason.value, "The ledger does not accept this credential.")
