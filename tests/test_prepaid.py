"""Credit without a Lightning node: spent like any other, never offered as an invoice."""

from pathlib import Path

import pytest

from fastapi_tollbooth import Money, TollboothSettings
from fastapi_tollbooth.errors import RailUnavailable, Unavailable
from fastapi_tollbooth.keys import load_key_ring
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.rails.l402_credential import L402Credential
from fastapi_tollbooth.rails.macaroon import Identifier, mint
from fastapi_tollbooth.rails.prepaid import PrepaidRail
from fastapi_tollbooth.rates import FixedRate
from fastapi_tollbooth.toll import Quote

pytestmark = pytest.mark.anyio


async def test_no_invoice_is_offered_and_none_is_believed(tmp_path: Path) -> None:
    settings = TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", settlement_wait=0)
    keys = load_key_ring(settings)
    rail = PrepaidRail(settings, keys, Ledger(settings.database_url), FixedRate(None))
    quote = Quote(Money.parse("$0.01"), "/x", "client")
    with pytest.raises(RailUnavailable):
        await rail.challenge(quote, None)
    assert rail.offer(None) == {"intent": "credit", "method": "l402", "purchase": "/tollbooth/credits"}
    # A credential for an invoice, as one could have been sold while there was a node.
    import hashlib

    identifier = Identifier.new(hashlib.sha256(bytes(32)).digest(), Money.parse("$1"), None, keys.newest)
    token = mint(keys, identifier, "tollbooth", ["services=tollbooth:0", "tollbooth_valid_until=9999999999"])
    line = f"L402 {token}:{'00' * 32}".encode()
    with pytest.raises(Unavailable):
        await rail.authorize(L402Credential(((b"authorization", line),)), quote)
    await rail.aclose()
