"""pip ``bolt11``: decodes and encodes invoices as told by a JSON document on standard input."""

import json
import sys
from typing import Any

from bolt11 import Bolt11, MilliSatoshi, decode, encode
from bolt11.models.tags import Tag, TagChar, Tags


def facts(invoice: str) -> dict[str, Any]:
    """What the library reads in an invoice. It raises unless the signature is right."""
    read = decode(invoice)
    return {
        "network": read.currency,
        "amount_msat": int(read.amount_msat or 0),
        "payment_hash": read.payment_hash,
        "payment_secret": read.payment_secret,
        "description": read.description,
        "created_at": read.date,
        "expiry_seconds": read.expiry,
        "payee": read.payee,
    }


def written(wanted: dict[str, Any]) -> str:
    """An invoice that says what is wanted."""
    tags = Tags(
        [
            Tag(TagChar.payment_hash, wanted["payment_hash"]),
            Tag(TagChar.payment_secret, wanted["payment_secret"]),
            Tag(TagChar.description, wanted["description"]),
            Tag(TagChar.expire_time, wanted["expiry_seconds"]),
        ]
    )
    invoice = Bolt11(wanted["network"], wanted["created_at"], tags, MilliSatoshi(wanted["amount_msat"]))
    return str(encode(invoice, wanted["private_key"]))


task = json.load(sys.stdin)
print(json.dumps({"read": [facts(text) for text in task["read"]], "written": [written(w) for w in task["write"]]}))
