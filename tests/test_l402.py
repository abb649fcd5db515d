"""The L402 rail: what a payment buys, what is offered, and every way in which a credential is presented."""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from pymacaroons.serializers import BinarySerializer

from fastapi_tollbooth import Asset, Money, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.errors import CredentialRefused, Forbidden, RailUnavailable, Unavailable
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.operations import Authorized, Revoke
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import (
    Capabilities,
    InvoiceState,
    InvoiceStatus,
    LightningUnavailable,
    UncheckedInvoice,
    bolt11,
)
from fastapi_tollbooth.money import Rate
from fastapi_tollbooth.rails import Challenge, RawHeaders
from fastapi_tollbooth.rails.l402 import L402Rail
from fastapi_tollbooth.rails.l402_credential import L402Credential
from fastapi_tollbooth.rails.macaroon import Identifier, mint, narrow, open_token
from fastapi_tollbooth.rates import FixedRate
from fastapi_tollbooth.toll import Quote, Toll
from tests.wallet import buy

RING = KeyRing((b"n" * 32,))
RATE = Rate.parse("100000")
CENT = Money.parse("$0.01")
PREIMAGE = b"p" * 32


@dataclass
class PaperNode:
    """A node on paper: every invoice has the same preimage, and what it says of them is up to the test."""

    state: InvoiceState = InvoiceState.SETTLED
    down: bool = False
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(recheck_seconds=60.0))
    invoices: list[int] = field(default_factory=list)
    lookups: int = 0

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        if self.down:
            raise LightningUnavailable("down")
        self.invoices.append(amount_msat)
        await asyncio.sleep(0)
        payment_hash = hashlib.sha256(PREIMAGE if len(self.invoices) == 1 else bytes([len(self.invoices)])).digest()
        text = bolt11.encode(
            network="bcrt",
            amount_msat=amount_msat,
            payment_hash=payment_hash,
            payment_secret=b"s" * 32,
            description=description,
            created_at=int(time.time()),
            expiry_seconds=expiry_seconds,
            private_key=1,
        )
        return UncheckedInvoice(payment_hash, text)

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        self.lookups += 1
        if self.down:
            raise LightningUnavailable("down")
        return InvoiceStatus(self.state, 123_000)

    async def aclose(self) -> None:
        pass


@dataclass
class Setup:
    rail: L402Rail
    node: PaperNode
    ledger: Ledger
    settings: TollboothSettings

    async def offer(
        self, price: Money = CENT, client: str = "client", presented: L402Credential | None = None
    ) -> Challenge:
        return await self.rail.challenge(Quote(price, "/weather", client), presented)

    def again(self) -> L402Rail:
        """The same service after a restart: nothing in memory."""
        return L402Rail(self.settings, RING, self.ledger, self.node, FixedRate(RATE))


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    settings = TollboothSettings(
        _env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", top_up=3, settlement_wait=0.05, service="svc"
    )
    ledger, node = Ledger(settings.database_url), PaperNode()
    yield Setup(L402Rail(settings, RING, ledger, node, FixedRate(RATE)), node, ledger, settings)
    await ledger.close()


def credential(macaroon: str, preimage: bytes = PREIMAGE, scheme: str = "L402") -> L402Credential:
    return L402Credential(((b"authorization", f"{scheme} {macaroon}:{preimage.hex()}".encode()),))


def quote(price: Money = CENT) -> Quote:
    return Quote(price, "/weather", "client")


def minted(*caveats: str, credit: Money | None = None) -> str:
    identifier = Identifier.new(hashlib.sha256(PREIMAGE).digest(), credit or CENT * 3, RATE, RING.newest)
    return mint(RING, identifier, "svc", list(caveats))


FUTURE = int(time.time()) + 1_000
GOOD = ("services=svc:0", f"svc_valid_until={FUTURE}")


# ── the challenge ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_the_challenge_has_the_form_that_every_client_reads(setup: Setup) -> None:
    challenge = await setup.offer()
    macaroon, invoice = challenge.members["macaroon"], challenge.members["invoice"]
    assert challenge.headers == (("WWW-Authenticate", f'L402 macaroon="{macaroon}", invoice="{invoice}"'),)
    assert base64.b64encode(base64.b64decode(macaroon, validate=True)).decode() == macaroon
    assert challenge.members["amountSats"] == 30
    assert challenge.members["paymentHash"] == hashlib.sha256(PREIMAGE).hexdigest()
    assert challenge.members["expiresAt"].endswith("Z")
    bought = challenge.members["credential"]
    assert (bought["reusable"], bought["credit"], bought["requests"]) == (True, "$0.03", 3)


@pytest.mark.anyio
async def test_an_unpaid_challenge_writes_nothing(setup: Setup, tmp_path: Path) -> None:
    await setup.offer()
    assert not (tmp_path / "t.db").exists()


@pytest.mark.anyio
async def test_a_challenge_is_offered_again_to_the_same_client_only(setup: Setup) -> None:
    first = await setup.offer()
    assert (await setup.offer()).headers == first.headers
    assert (await setup.offer(client="another")).headers != first.headers
    assert (await setup.offer(price=CENT * 2)).headers != first.headers
    assert len(setup.node.invoices) == 3


@pytest.mark.anyio
async def test_a_crowd_of_unpaid_requests_makes_one_invoice(setup: Setup) -> None:
    offers = await asyncio.gather(*(setup.offer() for _ in range(100)))
    assert len(setup.node.invoices) == 1
    assert len({offer.headers for offer in offers}) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("state", [InvoiceState.SETTLED, InvoiceState.EXPIRED, InvoiceState.FAILED])
async def test_an_invoice_that_can_no_longer_be_paid_is_not_offered_again(setup: Setup, state: InvoiceState) -> None:
    setup.node.capabilities = Capabilities(recheck_seconds=0)
    setup.node.state = InvoiceState.PENDING
    first = await setup.offer()
    assert (await setup.offer()).headers == first.headers
    setup.node.state = state
    assert (await setup.offer()).headers != first.headers


@pytest.mark.anyio
async def test_the_offer_behind_a_used_credential_is_not_made_again(setup: Setup) -> None:
    offer = await setup.offer()
    used = credential(offer.members["macaroon"])
    assert (await setup.offer(presented=used)).headers != offer.headers


@pytest.mark.anyio
async def test_a_dead_node_takes_the_rail_out_of_the_challenge(setup: Setup) -> None:
    setup.node.down = True
    with pytest.raises(RailUnavailable):
        await setup.offer()


# ── presenting a credential ───────────────────────────────────────────────────────────────────────────────────────────


def forms(macaroon: str) -> list[RawHeaders]:
    raw = base64.b64decode(macaroon)
    held = BinarySerializer().deserialize_raw(raw)
    held.add_first_party_caveat(f"preimage={PREIMAGE.hex()}")
    in_hex = bytes(BinarySerializer().serialize_raw(held)).hex().encode()
    urlsafe = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    narrowed = base64.b64encode(bytes(BinarySerializer().serialize_raw(held))).decode()
    authorization = [
        f"L402 {macaroon}:{PREIMAGE.hex()}",
        f"LSAT {macaroon}:{PREIMAGE.hex()}",
        f"l402 {macaroon}:{PREIMAGE.hex().upper()}",
        f"L402 L402 {macaroon}:{PREIMAGE.hex()}",
        f"  L402   {macaroon}:{PREIMAGE.hex()}  ",
        f"L402 {urlsafe}:{PREIMAGE.hex()}",
        f"L402 {narrowed}:{PREIMAGE.hex()}",
        f"L402 {minted(*GOOD).replace('=', '')},{macaroon}:{PREIMAGE.hex()}",
    ]
    return [
        *([(b"authorization", line.encode())] for line in authorization),
        [(b"authorization", authorization[1].encode()), (b"authorization", authorization[0].encode())],
        [(b"authorization", b"Basic abc"), (b"authorization", authorization[0].encode())],
        [(b"authorization", b"L402 broken"), (b"authorization", authorization[0].encode())],
        [(b"macaroon", in_hex)],
        [(b"grpc-metadata-macaroon", in_hex.upper())],
    ]


@pytest.mark.anyio
async def test_every_known_form_of_the_header_is_accepted(setup: Setup) -> None:
    macaroon = minted(*GOOD, credit=CENT * 100)
    for headers in forms(macaroon):
        found = setup.rail.credential([(b"host", b"x"), *headers])
        assert found is not None
        authorization = await setup.rail.authorize(found, quote())
        assert authorization.payer == "l402:" + hashlib.sha256(PREIMAGE).hexdigest()


@pytest.mark.anyio
@pytest.mark.parametrize("line", [b"Bearer abc", b"Basic abc", b"", b"Payment x", b"L40"])
async def test_other_schemes_are_not_ours(setup: Setup, line: bytes) -> None:
    assert setup.rail.credential([(b"authorization", line)]) is None


async def refusal(setup: Setup, macaroon: str, preimage: bytes = PREIMAGE) -> str:
    with pytest.raises(CredentialRefused) as refused:
        await setup.rail.authorize(credential(macaroon, preimage), quote())
    assert setup.node.lookups == 0, "a bad credential must not reach the node"
    return refused.value.reason


@pytest.mark.anyio
async def test_a_bad_credential_is_refused_with_its_reason_and_reaches_nobody(setup: Setup, tmp_path: Path) -> None:
    stranger = KeyRing((b"s" * 32,))
    foreign = mint(
        stranger, Identifier.new(hashlib.sha256(PREIMAGE).digest(), CENT, None, stranger.newest), "svc", list(GOOD)
    )
    assert await refusal(setup, foreign) == "invalid_signature"
    assert await refusal(setup, minted(*GOOD), b"q" * 32) == "wrong_preimage"
    assert await refusal(setup, minted("services=other:0", GOOD[1])) == "wrong_service"
    assert await refusal(setup, minted(*GOOD, "services=other:0")) == "wrong_service"
    assert await refusal(setup, minted(GOOD[1])) == "wrong_service"
    assert await refusal(setup, minted(GOOD[0])) == "malformed_credential"
    assert await refusal(setup, minted(GOOD[0], "svc_valid_until=soon")) == "malformed_credential"
    assert await refusal(setup, minted(GOOD[0], "svc_valid_until=1")) == "credential_expired"
    assert await refusal(setup, minted(*GOOD, "svc_valid_until=1")) == "credential_expired"
    assert not (tmp_path / "t.db").exists()


@pytest.mark.anyio
async def test_a_later_looser_expiry_does_not_extend(setup: Setup) -> None:
    assert (
        await refusal(setup, minted(GOOD[0], "svc_valid_until=1", f"svc_valid_until={FUTURE}")) == "credential_expired"
    )


@pytest.mark.anyio
async def test_unknown_caveats_are_skipped_and_money_in_caveats_means_nothing(setup: Setup) -> None:
    macaroon = narrow(minted(*GOOD), "colour=blue", "credit=$1000000", "other_valid_until=1", "nonsense")
    authorization = await setup.rail.authorize(credential(macaroon), quote())
    assert authorization.balance == CENT * 2


# ── the account behind it ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_credit_is_spent_down_and_then_refused(setup: Setup) -> None:
    presented = credential(minted(*GOOD))
    left = [(await setup.rail.authorize(presented, quote())).balance for _ in range(3)]
    assert left == [CENT * 2, CENT, CENT * 0]
    with pytest.raises(CredentialRefused) as refused:
        await setup.rail.authorize(presented, quote())
    assert refused.value.reason == "insufficient_credit"
    assert refused.value.members == {"balance": "$0.00"}
    assert setup.node.lookups == 1


@pytest.mark.anyio
async def test_after_a_restart_the_ledger_remembers_and_the_node_is_not_asked(setup: Setup) -> None:
    presented = credential(minted(*GOOD))
    await setup.rail.authorize(presented, quote())
    setup.node.down = True
    authorization = await setup.again().authorize(presented, quote())
    assert authorization.balance == CENT


@pytest.mark.anyio
async def test_one_payment_funds_one_account_whatever_the_encoding(setup: Setup) -> None:
    for headers in forms(minted(*GOOD, credit=CENT * 2))[:2]:
        found = setup.again().credential(headers)
        assert found is not None
        await setup.again().authorize(found, quote())
    with pytest.raises(CredentialRefused, match="credit left"):
        await setup.again().authorize(credential(minted(*GOOD, credit=CENT * 2), scheme="lsat"), quote())


@pytest.mark.anyio
async def test_first_uses_that_race_fund_once(setup: Setup) -> None:
    rails = [setup.again() for _ in range(8)]
    presented = credential(minted(*GOOD))
    results = await asyncio.gather(*(rail.authorize(presented, quote()) for rail in rails), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 3


@pytest.mark.anyio
async def test_a_price_in_another_asset_is_exchanged_and_rounded_up(setup: Setup) -> None:
    rail = L402Rail(setup.settings, RING, setup.ledger, setup.node, FixedRate(Rate.parse("97123.5")))
    authorization = await rail.authorize(credential(minted(*GOOD)), quote(Money.parse("100 msat")))
    assert authorization.amount == Money(98, Asset.USD)
    assert isinstance(authorization.state[0], Authorized)


@pytest.mark.anyio
async def test_without_a_rate_credit_in_another_asset_waits(setup: Setup) -> None:
    rail = L402Rail(setup.settings, RING, setup.ledger, setup.node, FixedRate(None))
    with pytest.raises(Unavailable) as refused:
        await rail.authorize(credential(minted(*GOOD)), quote(Money.parse("7 sat")))
    assert refused.value.reason == "no_exchange_rate"


@pytest.mark.anyio
async def test_a_price_beyond_all_credit_is_refused(setup: Setup) -> None:
    with pytest.raises(CredentialRefused) as refused:
        await setup.rail.authorize(
            credential(minted(*GOOD, credit=Money.parse("1 sat"))), quote(Money.parse("$9000000000000"))
        )
    assert refused.value.reason == "insufficient_credit"


# ── settlement is asked, not assumed ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
@pytest.mark.parametrize("state", [InvoiceState.PENDING, InvoiceState.UNKNOWN, None])
async def test_unknown_is_not_failed(setup: Setup, state: InvoiceState | None) -> None:
    setup.node.down = state is None
    setup.node.state = state or InvoiceState.PENDING
    presented = credential(minted(*GOOD))
    with pytest.raises(Unavailable) as refused:
        await setup.rail.authorize(presented, quote())
    assert refused.value.reason == "settlement_unconfirmed"
    assert (b"retry-after", b"2") in refused.value.raw_headers
    setup.node.down, setup.node.state = False, InvoiceState.SETTLED
    assert (await setup.rail.authorize(presented, quote())).balance == CENT * 2


@pytest.mark.anyio
@pytest.mark.parametrize("state", [InvoiceState.EXPIRED, InvoiceState.FAILED])
async def test_an_invoice_that_was_never_paid_opens_nothing(setup: Setup, state: InvoiceState) -> None:
    setup.node.state = state
    with pytest.raises(CredentialRefused) as refused:
        await setup.rail.authorize(credential(minted(*GOOD)), quote())
    assert refused.value.reason == "invoice_not_paid"


@pytest.mark.anyio
async def test_a_payer_who_is_faster_than_the_settlement_waits_a_moment(setup: Setup) -> None:
    setup.node.state = InvoiceState.PENDING
    setup.settings.settlement_wait = 3
    waiting = asyncio.create_task(setup.rail.authorize(credential(minted(*GOOD)), quote()))
    await asyncio.sleep(0.05)
    setup.node.state = InvoiceState.SETTLED
    assert (await waiting).balance == CENT * 2


# ── narrowed credentials ──────────────────────────────────────────────────────────────────────────────────────────────


def capped(macaroon: str, *caveats: str) -> L402Credential:
    return credential(narrow(macaroon, *caveats))


async def spent(rail: L402Rail, presented: L402Credential, price: Money = CENT) -> str:
    try:
        return str((await rail.authorize(presented, quote(price))).balance)
    except CredentialRefused as refused:
        return refused.reason


@pytest.mark.anyio
async def test_a_cap_holds_for_all_that_is_made_from_the_capped_token(setup: Setup) -> None:
    whole = minted(*GOOD, credit=CENT * 100)
    delegate = narrow(whole, "for=alice", "svc_max_spend=$0.03")
    children = [capped(delegate, "x=1"), capped(delegate, "x=2", "svc_max_spend=$0.01"), credential(delegate)]
    assert await spent(setup.rail, children[1]) == "$0.99"
    assert await spent(setup.rail, children[1]) == "spend_cap_reached"
    assert await spent(setup.rail, children[0]) == "$0.98"
    assert await spent(setup.again(), children[2]) == "$0.97"  # after a restart
    for child in children:
        assert await spent(setup.again(), child) == "spend_cap_reached"
    assert await spent(setup.rail, capped(whole, "for=bob", "svc_max_spend=$0.03")) == "$0.96"
    assert await spent(setup.rail, credential(whole)) == "$0.95"


@pytest.mark.anyio
async def test_a_cap_gets_back_what_a_request_did_not_use(setup: Setup) -> None:
    presented = capped(minted(*GOOD, credit=CENT * 100), "svc_max_spend=$0.01")
    toll = await setup.rail.authorize(presented, quote())
    assert await spent(setup.rail, presented) == "spend_cap_reached"
    await setup.rail.void(Toll(toll.toll_id, CENT, CENT, None, "", "l402", "/", authorization=toll.state))
    assert await spent(setup.rail, presented) == "$0.99"
    with pytest.raises(CredentialRefused) as refused:
        await setup.rail.authorize(presented, quote())
    assert refused.value.members == {"spendable": "$0.00"}


def test_a_metered_route_and_refunds_leave_a_cap_what_was_not_spent(tmp_path: Path) -> None:
    app, runs = FastAPI(), list[str]()
    tollbooth = Tollbooth(TollboothSettings(database_url=f"sqlite:///{tmp_path}/ledger.db", top_up="$1"))
    tollbooth.install(app)

    @app.get("/metered")
    async def metered(toll: Annotated[Toll, Depends(priced("$0.10", metered=True))], use: str) -> str:
        toll.use(use)
        runs.append(toll.id)
        return "ok"

    with TestClient(app) as client:
        whole = buy(client, "/metered?use=$0.01")["Authorization"].removeprefix("L402 ")
        macaroon, _, preimage = whole.partition(":")
        capped = {"Authorization": f"L402 {narrow(macaroon, 'tollbooth_max_spend=$0.12')}:{preimage}"}

        def ask(use: str) -> int:
            return client.get(f"/metered?use={use}", headers=capped).status_code

        def refund(toll: str) -> Money:
            assert client.portal is not None
            return client.portal.call(tollbooth.books.refund, toll).earned

        # Ten cents are held each time: the cap has room for that as long as two at most are spent.
        assert [ask("$0.01"), ask("$0.02"), ask("$0.01")] == [200, 200, 402]
        refund(runs[1])
        assert [ask("$0.01"), ask("$0.10"), ask("$0.01")] == [200, 200, 402]
    assert len(runs) == 4


@pytest.mark.anyio
async def test_a_race_for_the_last_of_a_cap_has_one_winner(setup: Setup) -> None:
    presented = capped(minted(*GOOD, credit=CENT * 100), "svc_max_spend=$0.05")
    results = await asyncio.gather(*(spent(rail, presented) for rail in [setup.again() for _ in range(4)] * 8))
    assert results.count("spend_cap_reached") == 32 - 5


@pytest.mark.anyio
@pytest.mark.parametrize("cap", ["10 sat", "lots", "", "-1"])
async def test_a_cap_that_means_nothing_allows_nothing(setup: Setup, cap: str) -> None:
    assert await spent(setup.rail, capped(minted(*GOOD), f"svc_max_spend={cap}")) == "malformed_credential"


@pytest.mark.anyio
async def test_narrowing_is_enforced(setup: Setup) -> None:
    whole = minted(*GOOD, credit=CENT * 100)
    assert await spent(setup.rail, capped(whole, "svc_valid_until=1")) == "credential_expired"
    assert await spent(setup.rail, capped(whole, "svc_capabilities=/other")) == "wrong_route"
    assert await spent(setup.rail, capped(whole, "svc_capabilities=/wea*")) == "$0.99"
    assert await spent(setup.rail, capped(whole, "svc_maxspend=$1")) == "unknown_caveat"


# ── several macaroons, rotation, revocation ───────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_of_several_macaroons_the_one_that_the_preimage_pays_is_used(setup: Setup) -> None:
    other = mint(RING, Identifier.new(b"o" * 32, CENT, None, RING.newest), "svc", list(GOOD))
    both = L402Credential(((b"authorization", f"L402 {other},{minted(*GOOD)}:{PREIMAGE.hex()}".encode()),))
    assert (await setup.rail.authorize(both, quote())).balance == CENT * 2
    neither = L402Credential(((b"authorization", f"L402 {other},{other}:{PREIMAGE.hex()}".encode()),))
    with pytest.raises(CredentialRefused) as refused:
        await setup.rail.authorize(neither, quote())
    assert refused.value.reason == "wrong_preimage"


@pytest.mark.anyio
async def test_a_new_key_keeps_what_the_old_one_sold_until_it_is_gone(setup: Setup) -> None:
    presented = credential(minted(*GOOD))
    await setup.rail.authorize(presented, quote())

    def with_keys(*keys: bytes) -> L402Rail:
        return L402Rail(setup.settings, KeyRing(keys), setup.ledger, setup.node, FixedRate(RATE))

    assert await spent(with_keys(b"z" * 32, b"n" * 32), presented) == "$0.01"
    offered = await with_keys(b"z" * 32, b"n" * 32).challenge(quote(), None)
    assert open_token(KeyRing((b"z" * 32,)), base64.b64decode(offered.members["macaroon"])).minted
    assert await spent(with_keys(b"z" * 32), presented) == "invalid_signature"
    assert setup.node.lookups == 1


@pytest.mark.anyio
async def test_a_revoked_account_is_closed_at_once_and_gets_no_challenge(setup: Setup) -> None:
    presented = credential(minted(*GOOD))
    account = (await setup.rail.authorize(presented, quote())).payer
    await setup.ledger.apply(Revoke(account))
    for rail in (setup.rail, setup.again()):
        with pytest.raises(Forbidden) as refused:
            await rail.authorize(presented, quote())
        assert refused.value.reason == "credential_revoked"
    await setup.ledger.apply(Revoke(account, False))
    assert await spent(setup.rail, presented) == "$0.01"


@pytest.mark.anyio
async def test_credit_that_has_ended_is_revived_by_new_money(setup: Setup) -> None:
    setup.settings.credit_expires_days = 1
    presented = credential(minted(*GOOD))
    await setup.rail.authorize(presented, quote())
    await setup.ledger.execute(
        lambda connection: connection.exec_driver_sql(
            "UPDATE tollbooth_account SET expires_at = '2020-01-01 00:00:00.000000' WHERE kind = 'payer'"
        )
    )
    assert await spent(setup.rail, presented) == "credit_expired"
    offered = await setup.rail.challenge(quote(), presented)
    assert offered.members["credential"]["topsUp"] is True
