"""Our invoices in the hands of the ``bolt11`` library, and its invoices in ours."""

import random
import sys
from typing import Any

import pytest

from fastapi_tollbooth.lightning import bolt11
from fastapi_tollbooth.lightning.secp256k1 import N, multiply_base
from tests.peers.conftest import CLIENTS, PythonOf, run_driver

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(sys.version_info >= (3, 13), reason="bolt11 2.2.0 does not install on Python 3.13"),
]

COUNT = 50
NETWORKS = ("bc", "tb", "tbs", "bcrt")
# Nearly all bitcoin that there will be. The library writes multiples of a thousand bitcoin a thousand times too small.
MOST_MSAT = 20_999_999 * 100_000_000_000
LETTERS = "abc XYZ 0189 .:$%&/ äöß € Ω 漢字 🍋"


def wanted_invoices() -> list[dict[str, Any]]:
    """Fifty sets of facts; every digest and text in the form that the library uses."""
    dice = random.Random(11)
    # Amounts of every magnitude, so that each unit of the prefix occurs; the first are the smallest and the largest.
    amounts = [1, MOST_MSAT, 1_000, *(dice.randint(1, 10 ** dice.randint(1, 18)) for _ in range(COUNT - 10))]
    amounts += [10**power for power in range(5, 12)]
    return [
        {
            "network": NETWORKS[index % len(NETWORKS)],
            "amount_msat": amount,
            "payment_hash": dice.randbytes(32).hex(),
            "payment_secret": dice.randbytes(32).hex(),
            "description": "".join(dice.choices(LETTERS, k=dice.randint(1, 60))),
            "created_at": dice.randint(1_500_000_000, 2_500_000_000),
            "expiry_seconds": dice.randint(1, 10 ** dice.randint(1, 7)),
            "private_key": dice.randint(1, N - 1).to_bytes(32, "big").hex(),
        }
        for index, amount in enumerate(amounts)
    ]


def without_key(wanted: dict[str, Any]) -> dict[str, Any]:
    """What can be read in an invoice of these facts."""
    return {name: value for name, value in wanted.items() if name != "private_key"}


def payee_of(private_key: int) -> str:
    """The compressed public key, in hex."""
    x, y = multiply_base(private_key)
    return f"{2 + (y & 1):02x}{x:064x}"


def test_the_bolt11_library_and_this_package_read_each_other_s_invoices(python_of: PythonOf) -> None:
    wanted = wanted_invoices()
    assert len(wanted) == COUNT
    ours = [
        bolt11.encode(
            network=facts["network"],
            amount_msat=facts["amount_msat"],
            payment_hash=bytes.fromhex(facts["payment_hash"]),
            payment_secret=bytes.fromhex(facts["payment_secret"]),
            description=facts["description"],
            created_at=facts["created_at"],
            expiry_seconds=facts["expiry_seconds"],
            private_key=int(facts["private_key"], 16),
        )
        for facts in wanted
    ]
    # The library allows any bitstring but cannot be imported with the fifth.
    python = python_of("bolt11==2.2.0", "bitstring<5")
    answer = run_driver([python, CLIENTS / "bolt11_codec.py"], {"read": ours, "write": wanted})

    for facts, read, theirs in zip(wanted, answer["read"], answer["written"], strict=True):
        assert read == without_key(facts) | {"payee": payee_of(int(facts["private_key"], 16))}
        invoice = bolt11.decode(theirs)
        assert without_key(facts) == {
            "network": invoice.network,
            "amount_msat": invoice.amount_msat,
            "payment_hash": invoice.payment_hash.hex(),
            "payment_secret": (invoice.payment_secret or b"").hex(),
            "description": invoice.description,
            "created_at": int(invoice.created_at.timestamp()),
            "expiry_seconds": int((invoice.expires_at - invoice.created_at).total_seconds()),
        }
