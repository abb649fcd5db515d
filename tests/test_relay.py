"""One line to a relay, shared by all who ask at once. What is asked over it is in `test_nwc`."""

import asyncio
import ssl
import time

import pytest

from fastapi_tollbooth.lightning import LightningUnavailable
from fastapi_tollbooth.lightning.nostr import Keys
from fastapi_tollbooth.lightning.relay import Relay as Line
from tests.nodes import Book
from tests.nodes.nwc import SERVICE_SECRET, WALLET, Relay, Wallet, relaying

SERVICE = Keys(SERVICE_SECRET)


def line_to(*addresses: str, timeout: float = 2.0) -> Line:
    context = ssl.create_default_context()
    return Line(addresses, context, WALLET.public.hex(), SERVICE.public.hex(), timeout)


@pytest.mark.anyio
async def test_all_who_ask_at_once_share_one_connection() -> None:
    relay = Relay()
    with relaying(relay) as address:
        line = line_to(address)
        assert await asyncio.gather(*(line.info() for _ in range(20))) == [None] * 20
        assert len(relay.subscriptions) == 1
        await line.aclose()


@pytest.mark.anyio
async def test_the_wallet_s_description_is_its_own() -> None:
    wallet, relay = Wallet(Book()), Relay()
    forged = Keys(b"\x05" * 32).sign(13_194, [["encryption", "nip04"]], "", int(time.time())).document()
    relay.stored += [forged | {"pubkey": WALLET.public.hex()}, wallet.info()]
    with relaying(relay) as address:
        line = line_to(address)
        info = await line.info()
        assert info is not None
        assert info.tag("encryption") == "nip44_v2 nip04"
        await line.aclose()


@pytest.mark.anyio
async def test_whoever_waits_when_the_relay_hangs_up_is_told() -> None:
    relay = Relay()
    with relaying(relay) as address:
        line = line_to(address)
        waiting = asyncio.create_task(line.ask(SERVICE.sign(23_194, [["p", WALLET.public.hex()]], "x", 1)))
        while not relay.heard:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(relay.hang_up)
        with pytest.raises(LightningUnavailable, match="hung up"):
            await waiting
        await line.aclose()


@pytest.mark.anyio
async def test_whoever_stops_waiting_takes_nothing_from_the_others() -> None:
    relay = Relay()
    with relaying(relay) as address:
        line = line_to(address)
        first, second = (asyncio.create_task(line.info()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is None
        await line.aclose()
        await line.aclose()


@pytest.mark.anyio
async def test_a_connection_that_cannot_be_opened_is_tried_again() -> None:
    line = line_to("ws://127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(LightningUnavailable, match="no relay"):
            await line.info()
    await line.aclose()
