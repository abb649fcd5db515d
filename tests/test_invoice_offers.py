"""Offers: as few invoices as possible, and never somebody else's."""

import asyncio
from pathlib import Path

import pytest

from fastapi_tollbooth import Money, TollboothSettings
from fastapi_tollbooth.bundles import Bundle
from fastapi_tollbooth.errors import RailUnavailable, TooManyChallenges
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.lightning import InvoiceState
from fastapi_tollbooth.rails.invoice_offers import Offer, Offers, Order
from fastapi_tollbooth.rails.invoice_token import read_invoice_token
from fastapi_tollbooth.rails.node_guard import GuardedNode
from fastapi_tollbooth.rails.purchase import Purchase
from tests.test_l402 import RATE, RING, PaperNode

CENT = Money.parse("$0.01")


def made(**settings: int) -> tuple[Offers, PaperNode]:
    node = PaperNode(state=InvoiceState.PENDING)
    return Offers(TollboothSettings(_env_file=None, **settings), RING, GuardedNode(node)), node  # type: ignore[arg-type]


async def offer(offers: Offers, client: str = "client", credit: Money = CENT, **order: object) -> Offer:
    return await offers.offer(Order(client, credit, **order), Purchase(credit, 10_000), RATE)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_equal_orders_share_an_invoice_and_no_others_do() -> None:
    offers, node = made()
    first = await offer(offers)
    assert await offer(offers) is first
    bundle = Bundle(CENT, CENT)
    others = [
        await offer(offers, client="another"),
        await offer(offers, credit=CENT * 2),
        await offer(offers, bundle=bundle),
        await offer(offers, account="l402:mine"),
        await offer(offers, account="l402:theirs"),
        await offer(offers, owned=(("region", "eu"),)),
    ]
    assert len({id(each) for each in [first, *others]}) == len(node.invoices) == 7
    offers.forget(first.invoice.payment_hash)
    assert await offer(offers) is not first


@pytest.mark.anyio
async def test_one_client_causes_so_many_invoices_a_minute_and_others_still_get_theirs() -> None:
    offers, node = made(invoices_per_client=5, invoices_per_minute=8)
    results = await asyncio.gather(
        *(offer(offers, credit=CENT * number) for number in range(1, 3_001)), return_exceptions=True
    )
    assert len(node.invoices) == 5
    limited = [result for result in results if isinstance(result, TooManyChallenges)]
    assert len(limited) == 2_995
    assert 59 <= limited[0].retry_after <= 61
    assert (await offer(offers, client="legitimate")).invoice.amount_msat == 10_000
    assert await offer(offers, credit=CENT) in results  # what is open is offered again


@pytest.mark.anyio
async def test_all_together_cause_so_many_invoices_a_minute() -> None:
    offers, node = made(invoices_per_client=5, invoices_per_minute=8)
    results = await asyncio.gather(
        *(offer(offers, client=str(number)) for number in range(100)), return_exceptions=True
    )
    assert len(node.invoices) == 8
    assert sum(isinstance(result, TooManyChallenges) for result in results) == 92


@pytest.mark.anyio
async def test_a_dead_node_makes_no_offer(tmp_path: Path) -> None:
    offers, node = made()
    node.down = True
    for _ in range(50):  # what was not made is not counted
        with pytest.raises(RailUnavailable) as unavailable:
            await offer(offers)
        assert not isinstance(unavailable.value, TooManyChallenges)


@pytest.mark.anyio
async def test_the_status_token_says_which_account_is_credited() -> None:
    offers, _ = made()
    own, topped_up = await offer(offers), await offer(offers, account="l402:mine")
    for each, account in ((own, f"l402:{own.invoice.payment_hash.hex()}"), (topped_up, "l402:mine")):
        claim = read_invoice_token(RING, each.status_token)
        assert claim is not None
        assert (claim.account, claim.identifier.payment_hash) == (account, each.invoice.payment_hash)
        assert read_invoice_token(KeyRing((b"x" * 32,)), each.status_token) is None
