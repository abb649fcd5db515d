"""Settlement is asked, never assumed, and the answer is stored."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fastapi_tollbooth import Money, TollboothSettings
from fastapi_tollbooth.errors import CredentialRefused, Unavailable
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import (
    Capabilities,
    InvoiceState,
    InvoiceStatus,
    LightningUnavailable,
    UncheckedInvoice,
)
from fastapi_tollbooth.money import Rate
from fastapi_tollbooth.rails.macaroon import Identifier
from fastapi_tollbooth.rails.node_guard import GuardedNode
from fastapi_tollbooth.rails.settlements import Settlements

HASH = b"h" * 32
MOMENT = datetime(2026, 11, 20, tzinfo=UTC)


@dataclass
class Node:
    """A node that says one thing after the other, the last one for ever; None is silence."""

    answers: list[InvoiceStatus | None]
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(recheck_seconds=60))
    asked: int = 0

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise LightningUnavailable("silent")
        return answer

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        raise NotImplementedError

    async def aclose(self) -> None:
        return None


PENDING, EXPIRED = InvoiceStatus(InvoiceState.PENDING), InvoiceStatus(InvoiceState.EXPIRED)
SETTLED = InvoiceStatus(InvoiceState.SETTLED, 123_000, MOMENT)


@pytest.fixture
def settings(tmp_path: Path) -> TollboothSettings:
    return TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", settlement_wait=0.5)


@pytest.fixture
async def ledger(settings: TollboothSettings) -> AsyncIterator[Ledger]:
    ledger = Ledger(settings.database_url)
    yield ledger
    await ledger.close()


def made(settings: TollboothSettings, ledger: Ledger, *answers: InvoiceStatus | None) -> tuple[Settlements, Node]:
    node = Node(list(answers))
    return Settlements(settings, ledger, GuardedNode(node)), node


@pytest.mark.anyio
async def test_a_payer_who_is_faster_than_the_news_waits_a_bounded_moment(
    settings: TollboothSettings, ledger: Ledger
) -> None:
    found, _ = made(settings, ledger, PENDING, None, SETTLED)
    assert await found.confirmed(HASH) == SETTLED
    never, node = made(settings, ledger, PENDING)
    started = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable, match="same credential"):
        await never.confirmed(HASH)
    assert asyncio.get_running_loop().time() - started <= 0.6
    assert node.asked <= 4  # it asks less and less often


@pytest.mark.anyio
@pytest.mark.parametrize("state", [InvoiceState.EXPIRED, InvoiceState.FAILED])
async def test_what_can_no_longer_be_paid_is_refused(
    settings: TollboothSettings, ledger: Ledger, state: InvoiceState
) -> None:
    found, _ = made(settings, ledger, InvoiceStatus(state))
    with pytest.raises(CredentialRefused):
        await found.confirmed(HASH)


@pytest.mark.anyio
async def test_those_without_proof_do_not_make_the_node_answer_again_and_again(
    settings: TollboothSettings, ledger: Ledger
) -> None:
    found, node = made(settings, ledger, PENDING)
    for _ in range(100):
        assert await found.looked_at(HASH) == PENDING
    assert node.asked == 1
    silent, _ = made(settings, ledger, None)
    with pytest.raises(Unavailable) as refused:
        await silent.looked_at(HASH)
    assert refused.value.reason == "node_unavailable"


@pytest.mark.anyio
async def test_the_node_s_answer_is_stored_with_the_credit(
    settings: TollboothSettings, ledger: Ledger, tmp_path: Path
) -> None:
    found, _ = made(settings, ledger, SETTLED)
    identifier = Identifier.new(HASH, Money.parse("$0.10"), Rate.parse("100000"), b"key!", sats=100)
    assert not await found.is_credited(HASH)
    await ledger.apply(found.fund(identifier, "l402:abc", SETTLED))
    assert await found.is_credited(HASH)
    assert (await found.credit_of("l402:abc")).balance == Money.parse("$0.10")
    with sqlite3.connect(tmp_path / "t.db") as connection:
        row = connection.execute(
            "SELECT spend_key, amount, asset, payer, reference, rate FROM tollbooth_payment"
        ).fetchone()
    connection.close()
    assert row == (
        f"l402:{HASH.hex()}",
        123_000,
        "BTC",
        "l402:abc",
        "settled 2026-11-20T00:00:00+00:00",
        "100000.000000",
    )


@pytest.mark.anyio
async def test_where_the_node_does_not_say_how_much_it_is_what_was_asked(
    settings: TollboothSettings, ledger: Ledger
) -> None:
    found, _ = made(settings, ledger, SETTLED)
    identifier = Identifier.new(HASH, Money.parse("$0.10"), None, b"key!", sats=100)
    assert found.fund(identifier, "a", InvoiceStatus(InvoiceState.SETTLED)).payment.amount == 100_000


@pytest.mark.anyio
async def test_credit_may_end(settings: TollboothSettings, ledger: Ledger) -> None:
    identifier = Identifier.new(HASH, Money.parse("$0.10"), None, b"key!")
    found, _ = made(settings, ledger, SETTLED)
    assert found.fund(identifier, "a", SETTLED).expires_at is None
    ending = settings.model_copy(update={"credit_expires_days": 30})
    expires_at = made(ending, ledger, SETTLED)[0].fund(identifier, "a", SETTLED).expires_at
    assert expires_at is not None
    assert abs(expires_at - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)


@pytest.mark.anyio
async def test_there_is_no_credit_in_an_account_that_is_not_there(settings: TollboothSettings, ledger: Ledger) -> None:
    found, _ = made(settings, ledger, SETTLED)
    with pytest.raises(CredentialRefused):
        await found.credit_of("l402:nobody")
