"""Facilitators, as they are in the wild: rejections with 400, lost answers, redirects, nonsense."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from fastapi_tollbooth.rails.x402.facilitator import Facilitator, NoAnswer, Outcome, Settlement, Verdict
from tests.stub_facilitator import StubFacilitator, stub_facilitator
from tests.x402_payer import PAYER, payload

pytestmark = pytest.mark.anyio

NETWORKS = ("eip155:84532", "base-sepolia")
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def stub() -> Iterator[StubFacilitator]:
    with stub_facilitator() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as opened:
        yield opened


def body() -> dict[str, Any]:
    asked = {"scheme": "exact", "network": "eip155:84532", "asset": "0x" + "12" * 20}
    return {"x402Version": 2, "paymentPayload": {"payload": payload(10)}, "paymentRequirements": asked}


async def test_a_good_payment_is_verified_and_settled(stub: StubFacilitator, client: httpx.AsyncClient) -> None:
    facilitator, payment = Facilitator([stub.url + "/"]), body()
    assert await facilitator.verify(client, payment) == Verdict(True, PAYER)
    settled = await facilitator.settle(client, payment, NETWORKS)
    assert settled == Settlement(Outcome.SETTLED, f"0x{1:064x}")
    assert [path for path, _ in stub.calls] == ["/verify", "/settle"]
    assert stub.calls[0][1] == payment


@pytest.mark.parametrize("status", [200, 400, 402])
async def test_a_rejection_is_read_whatever_its_status(
    stub: StubFacilitator, client: httpx.AsyncClient, status: int
) -> None:
    stub.verify_answer = status, {"isValid": False, "invalidReason": "insufficient_funds", "payer": PAYER}
    stub.settle_answer = status, {"success": False, "errorReason": "insufficient_funds", "transaction": ""}
    facilitator = Facilitator([stub.url])
    assert await facilitator.verify(client, body()) == Verdict(False, PAYER, "insufficient_funds")
    assert await facilitator.settle(client, body(), NETWORKS) == Settlement(Outcome.FAILED, reason="insufficient_funds")


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"error": "boom"}),
        (200, b"<html>"),
        (200, []),
        (200, {"isValid": "true", "success": "true"}),
        (401, {"message": "unauthorized"}),
        (200, b'{"isValid": true, "success": true, "transaction": "0x1", "isValid": false}'),
        (200, b" " * 300_000 + b"{}"),
    ],
)
async def test_what_cannot_be_read_is_no_answer(
    stub: StubFacilitator, client: httpx.AsyncClient, answer: tuple[int, Any]
) -> None:
    stub.verify_answer = stub.settle_answer = answer
    with pytest.raises(NoAnswer):
        await Facilitator([stub.url]).verify(client, body())
    settled = await Facilitator([stub.url]).settle(client, body(), NETWORKS)
    assert settled.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "answer",
    [
        {"success": True, "transaction": "", "network": "eip155:84532"},
        {"success": True, "transaction": "0x1", "network": "eip155:1"},
        {"success": True, "network": "eip155:84532"},
        {"success": True, "transaction": "0x1\0", "network": "eip155:84532"},
        {"success": True, "transaction": "0x1\r\n", "network": "eip155:84532"},
        {"success": False, "errorReason": "settlement_pending", "transaction": "0x1"},
        {"success": False, "errorReason": "settle_exact_evm_transaction_confirmation_timed_out"},
        {"success": False, "errorReason": "invalid_exact_evm_nonce_already_used"},
        {"success": False, "errorReason": "unexpected_settle_error"},
        {"success": False, "errorReason": "Facilitator settle failed (500): <html>"},
        {"success": False},
    ],
)
async def test_a_settlement_that_is_not_surely_one_or_the_other_is_unknown(
    stub: StubFacilitator, client: httpx.AsyncClient, answer: dict[str, Any]
) -> None:
    stub.settle_answer = 200, answer
    assert (await Facilitator([stub.url]).settle(client, body(), NETWORKS)).outcome is Outcome.UNKNOWN


async def test_the_names_of_version_1_are_right_too(stub: StubFacilitator, client: httpx.AsyncClient) -> None:
    stub.settle_answer = 200, {"success": True, "transaction": "0x1", "network": "base-sepolia"}
    assert (await Facilitator([stub.url]).settle(client, body(), NETWORKS)).outcome is Outcome.SETTLED


async def test_a_lost_answer_is_unknown_and_nobody_is_asked_again(
    stub: StubFacilitator, client: httpx.AsyncClient
) -> None:
    stub.lose_settle_answer = True
    with stub_facilitator() as other:
        settled = await Facilitator([stub.url, other.url]).settle(client, body(), NETWORKS)
        assert other.calls == []
    assert settled.outcome is Outcome.UNKNOWN
    assert (stub.count("/settle"), len(stub.transfers)) == (1, 1)


async def test_a_facilitator_that_is_not_there_was_not_told_to_settle(client: httpx.AsyncClient) -> None:
    assert (await Facilitator([DEAD]).settle(client, body(), NETWORKS)).outcome is Outcome.UNSENT
    with pytest.raises(NoAnswer):
        await Facilitator([DEAD]).verify(client, body())


async def test_the_next_facilitator_helps_to_verify(stub: StubFacilitator, client: httpx.AsyncClient) -> None:
    assert (await Facilitator([DEAD, stub.url]).verify(client, body())).valid
    assert (await Facilitator([DEAD, stub.url]).settle(client, body(), NETWORKS)).outcome is Outcome.UNSENT
    assert [path for path, _ in stub.calls] == ["/verify"]


async def test_redirects_are_not_followed(stub: StubFacilitator, client: httpx.AsyncClient) -> None:
    with stub_facilitator() as elsewhere:
        stub.redirect = elsewhere.url
        with pytest.raises(NoAnswer):
            await Facilitator([stub.url]).verify(client, body())
        assert (await Facilitator([stub.url]).settle(client, body(), NETWORKS)).outcome is Outcome.UNKNOWN
        assert elsewhere.calls == []


async def test_what_a_facilitator_supports(stub: StubFacilitator, client: httpx.AsyncClient) -> None:
    stub.kinds = [{"x402Version": 2, "scheme": "exact", "network": "solana:x", "extra": {"feePayer": "2"}}]
    assert await Facilitator([stub.url]).supported(client) == stub.kinds
    with pytest.raises(NoAnswer):
        await Facilitator([DEAD]).supported(client)


async def test_calls_are_signed_for_their_host_alone(stub: StubFacilitator, client: httpx.AsyncClient) -> None:
    class Signer:
        def headers(self, method: str, url: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {method} {url.removeprefix(stub.url)}"}

    await Facilitator([stub.url], {"127.0.0.1": Signer()}).verify(client, body())
    await Facilitator([stub.url], {"elsewhere": Signer()}).verify(client, body())
    assert [headers.get("Authorization") for headers in stub.headers] == ["Bearer POST /verify", None]
