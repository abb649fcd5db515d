"""Taking an x402 payment: claimed durably before the handler runs, moved by the facilitator, written down either way.

    verify ─▶ claim ─▶ [handler] ─▶ begin ─▶ settle ─▶ complete         the money is here, and charged for the request
                                                  └──▶ failed           it is not, and the claim is free again
                                                  └──▶ unknown          nobody knows: kept until somebody does

Nothing here ever asks for a second payment while the fate of a first one is open.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx

from fastapi_tollbooth.errors import Conflict, CredentialRefused, Refusal, Unavailable
from fastapi_tollbooth.ledger import operations as ops
from fastapi_tollbooth.ledger.records import PaymentState
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.rails.x402 import history
from fastapi_tollbooth.rails.x402.accepted import Accepted
from fastapi_tollbooth.rails.x402.chain import ChainUnavailable, Finding, Transferred, look_up
from fastapi_tollbooth.rails.x402.facilitator import NoAnswer, Outcome, Settlement
from fastapi_tollbooth.rails.x402.history import Known
from fastapi_tollbooth.rails.x402.order import BUSY, UNKNOWN, Held, Order, invalid, refusal_of, settlement_failed

logger = logging.getLogger("fastapi_tollbooth.x402")

T = TypeVar("T")

SETTLING_LASTS = timedelta(minutes=2)
"""A settlement that is older than this was left by a process that ended: it takes a minute at most."""
EXPIRY_GRACE = timedelta(minutes=2)
"""How long after its expiry an authorization that was not used is given up."""


class Settler:
    """Moves payments through the ledger and the facilitators.

    Args:
        ledger: Where every step is written down first.
        client: Gives the HTTP client of the running event loop.
    """

    def __init__(self, ledger: Ledger, client: Callable[[], httpx.AsyncClient]) -> None:
        self._ledger = ledger
        self._client = client
        self._tasks: set[asyncio.Task[Any]] = set()
        self._resolving: set[str] = set()
        self._unresolved = 0

    async def verify(self, order: Order) -> CredentialRefused | Unavailable | None:
        """Why the facilitator does not vouch for a payment; None when it does."""
        try:
            verdict = await order.accepted.facilitator.verify(self._client(), order.body)
        except NoAnswer:
            return Unavailable(
                "facilitator_unavailable",
                "The payment cannot be checked at the moment. Do not pay again: send the same payment later.",
            )
        if verdict.valid and (verdict.payer is None or verdict.payer.lower() == order.payment.payer.lower()):
            return None
        return invalid(verdict.reason)

    async def known(self, spend_key: str) -> Known | None:
        """What the ledger knows of a payment that has, or may have, been made; None when it never was."""
        known = await self._ledger.read(history.reader(spend_key))
        return None if known is None or known.state in history.NOT_MADE else known

    async def hold(self, order: Order) -> Held:
        """Take a payment for one request, durably. One that is owed to its payer is charged at once.

        Raises:
            Conflict: another request works for it.
            Forbidden: it was spent.
            Unavailable: whether its money came is still unknown.
            CredentialRefused: it cannot pay for this.
        """
        outcome = (await self._ledger.apply(order.claim()))[-1]
        if isinstance(outcome, ops.Refused) and outcome.reason is ops.Reason.UNSETTLED:
            await self._resolve(order)
            outcome = (await self._ledger.apply(order.claim()))[-1]
        return _held(order, outcome)

    async def settle(self, held: Held, charge: Money | None) -> Held:
        """Have the money of a claim moved, and write down what came of it.

        Args:
            held: The claim.
            charge: What the request that was served for it costs; None when none was served yet. Then the money is
                promised to its toll in the same breath, so that no copy of the payment gets in between.

        Raises:
            CredentialRefused: the money did not move. The payment may be tried again.
            Unavailable: it is not known whether it moved, or the facilitator was not reached.
        """
        order, key = held.order, held.order.payment.spend_key
        begun = (await self._ledger.apply(ops.BeginSettlement(key, held.toll)))[-1]
        if isinstance(begun, ops.Refused):
            raise Unavailable("settlement_unknown", UNKNOWN)
        settlement = await order.accepted.facilitator.settle(self._client(), order.body, order.networks)
        if settlement.outcome is Outcome.FAILED:
            settlement = await self._doubted(order, settlement)
        match settlement.outcome:
            case Outcome.SETTLED:
                completed = ops.CompleteSettlement(key, settlement.transaction, charge)
                if charge is not None:
                    await self._complete(completed)
                    return held._replace(settled=True, reference=settlement.transaction)
                return _held(order, await self._complete(completed, order.claim()), settlement.transaction)
            case Outcome.FAILED:
                await self._end(held, PaymentState.FAILED)
                raise settlement_failed(settlement.reason)
            case Outcome.UNSENT:
                await self._end(held, PaymentState.FAILED)
                raise Unavailable(
                    "facilitator_unavailable", "The payment was not taken. Send the same payment again later."
                )
        await self._end(held, PaymentState.UNKNOWN)
        raise Unavailable("settlement_unknown", UNKNOWN)

    async def settle_first(self, held: Held) -> Held:
        """Have the money moved before the handler runs, whatever becomes of the request meanwhile.

        Until a request is served for it, the payment is owed to its payer.

        Raises:
            CredentialRefused, Unavailable, Conflict, Forbidden: as `settle` and `hold`.
        """
        settling = self._start(self.settle(held, None))
        try:
            return await asyncio.shield(settling)
        except asyncio.CancelledError:
            self._start(self._leave_owed(settling))
            raise

    def abandon(self, held: Held) -> None:
        """Let go of a claim whose request nobody waits for any more."""
        self._start(self._let_go_quietly(held))

    async def _let_go_quietly(self, held: Held) -> None:
        with contextlib.suppress(Refusal):
            await self.let_go(held)

    async def _leave_owed(self, settling: asyncio.Task[Held]) -> None:
        with contextlib.suppress(Refusal):  # nobody is there to hear it, and the ledger knows
            await self.let_go(await settling)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def deliver(self, held: Held, charge: Money, served: bool = False) -> str:
        """Earn what a request that succeeded costs; the transaction, which is "" where no money had to move.

        Of a payment that buys credit nothing is earned yet. With ``served`` the response is out already, and it is
        charged although the sweeper took it for one that was left behind.

        Raises:
            CredentialRefused, Unavailable: as `settle`.
        """
        buys_credit = held.order.buys_credit
        if buys_credit:
            charge = Money(0, charge.asset)
        if not held.settled:
            if charge.is_zero and not buys_credit:
                await self.let_go(held)
                return ""
            return (await self.settle(held, charge)).reference
        earned = (await self._ledger.apply(ops.Capture(held.account_id, held.toll, charge.amount, served)))[-1]
        if earned != ops.Resolved("post") and not served:
            raise Unavailable("toll_expired", "The request took too long. Do not pay again: send the same payment.")
        known = None
        if not held.reference:
            with contextlib.suppress(Unavailable):  # it is charged: the payer is served, if without the transaction
                known = await self.known(held.order.payment.spend_key)
        return held.reference if known is None else known.reference or ""

    async def let_go(self, held: Held) -> None:
        """Take the claim back, or leave the payment owed where its money is here: its request did not succeed."""
        if held.settled:
            await self._ledger.apply(ops.Void(held.account_id, held.toll))
        else:
            await self._end(held, PaymentState.RELEASED)

    # ── what is not known ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _resolve(self, order: Order) -> None:
        """Find out what became of a settlement whose answer was lost: the facilitator first, then the chain.

        Raises:
            Conflict: it is being settled right now.
            Unavailable: it stays unknown.
            CredentialRefused: it has failed for good.
        """
        known = await self.known(order.payment.spend_key)
        if known is None or known.toll is None or known.state is PaymentState.SETTLED:
            return
        if known.state is PaymentState.SETTLING and datetime.now(UTC) - known.updated_at < SETTLING_LASTS:
            raise Conflict("payment_in_use", BUSY)
        if order.payment.spend_key in self._resolving:
            raise Conflict("payment_in_use", BUSY)
        self._resolving.add(order.payment.spend_key)
        try:
            settlement = await self._ask_again(order, known)
        finally:
            self._resolving.discard(order.payment.spend_key)
        if settlement.outcome is Outcome.FAILED:
            raise settlement_failed(settlement.reason)
        if settlement.outcome is not Outcome.SETTLED:
            raise Unavailable("settlement_unknown", UNKNOWN)

    async def _ask_again(self, order: Order, known: Known) -> Settlement:
        settlement = await order.accepted.facilitator.settle(self._client(), order.body, order.networks)
        if settlement.outcome is not Outcome.SETTLED:
            # What it refuses now may be what it has done before: only the chain can tell.
            settlement = await self._doubted(order, Settlement(Outcome.UNKNOWN), known.expires_at)
        if known.toll is not None:
            await self._write_down(order.payment.spend_key, known.toll, settlement)
        return settlement

    async def reconcile(self, accepted: Mapping[str, Accepted], deadline: timedelta) -> int:
        """Look after the payments that nobody looks after: how many of them found their end.

        A claim is given up; a settlement is looked up on the chain, where a node of it is configured.

        Args:
            accepted: The networks, by id.
            deadline: How old a claim is whose request has ended with its process.

        Raises:
            Unavailable: the database did not answer.
        """
        resolved = 0
        abandoned = await self._ledger.read(history.abandoned(deadline, SETTLING_LASTS))
        for spend_key, known in abandoned:
            if known.toll is None:
                continue
            if known.state is PaymentState.CLAIMED:
                await self._ledger.apply(ops.EndClaim(spend_key, known.toll, PaymentState.RELEASED))
                resolved += 1
                continue
            settlement = Settlement(Outcome.UNKNOWN)
            wanted = history.wanted(spend_key, known, accepted)
            if wanted is not None:
                place, transfer = wanted
                settlement = _judged(await self._find(place, transfer), settlement, known.expires_at)
            await self._write_down(spend_key, known.toll, settlement)
            resolved += settlement.outcome is not Outcome.UNKNOWN
        if len(abandoned) - resolved > self._unresolved:
            logger.error("of %d payments it is not known whether they arrived", len(abandoned) - resolved)
        self._unresolved = len(abandoned) - resolved
        return resolved

    async def _doubted(self, order: Order, settlement: Settlement, expires_at: datetime | None = None) -> Settlement:
        """What the chain says of a settlement that a facilitator reports as failed, or does not report."""
        payment, place = order.payment, order.accepted
        wanted = Transferred(place.network.token.address, payment.payer, payment.nonce, place.pay_to, payment.amount)
        return _judged(await self._find(place, wanted), settlement, expires_at)

    async def _find(self, place: Accepted, wanted: Transferred) -> Finding | None:
        if place.rpc_url is None or not wanted.nonce.startswith("0x"):
            return None
        try:
            return await look_up(self._client(), place.rpc_url, wanted)
        except ChainUnavailable as error:
            logger.warning("the node of %s could not be asked: %s", place.network.id, error)
            return None

    async def _write_down(self, spend_key: str, toll: int, settlement: Settlement) -> None:
        match settlement.outcome:
            case Outcome.SETTLED:
                await self._complete(ops.CompleteSettlement(spend_key, settlement.transaction))
            case Outcome.FAILED:
                await self._ledger.apply(ops.EndClaim(spend_key, toll, PaymentState.FAILED))
            case _:
                await self._ledger.apply(ops.EndClaim(spend_key, toll, PaymentState.UNKNOWN))

    async def _complete(self, completed: ops.CompleteSettlement, *then: ops.Operation) -> ops.Outcome:
        """Write down that the money has come, and in the same batch what follows from it; the last outcome."""
        try:
            outcome, *following = await self._ledger.apply(completed, *then)
        except Unavailable:
            # The money has come and the response is withheld: it is owed as soon as that can be written.
            self._ledger.apply_later(ops.CompleteSettlement(completed.spend_key, completed.reference))
            raise Unavailable("settlement_unknown", UNKNOWN) from None
        if isinstance(outcome, ops.Refused):
            logger.error("a settled payment could not be written down: %s", outcome.reason)
            raise Unavailable("settlement_unknown", UNKNOWN)
        return following[-1] if following else outcome

    async def _end(self, held: Held, state: Any) -> None:
        await self._ledger.apply(ops.EndClaim(held.order.payment.spend_key, held.toll, state))


def _held(order: Order, outcome: ops.Outcome, reference: str = "") -> Held:
    if not isinstance(outcome, ops.Claimed):
        raise refusal_of(outcome)
    return Held(order, outcome.toll, outcome.account_id, outcome.settled, reference)


def _judged(finding: Finding | None, settlement: Settlement, expires_at: datetime | None) -> Settlement:
    if finding is None or not finding.conclusive:
        # A facilitator's word that it has failed holds unless the chain knows better.
        return settlement if finding is None else Settlement(Outcome.UNKNOWN, reason=settlement.reason)
    if finding.transaction is not None:
        return Settlement(Outcome.SETTLED, finding.transaction)
    if finding.used:
        return Settlement(Outcome.FAILED, reason=settlement.reason or "authorization_cancelled")
    if expires_at is not None and datetime.now(UTC) > expires_at + EXPIRY_GRACE:
        return Settlement(Outcome.FAILED, reason="authorization_expired")
    return settlement
