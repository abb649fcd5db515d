"""pip ``x402``, as a wallet that signs and sends nothing.

Told on standard input the header of a 402, a key and an identifier or none; prints the header of the paying request.
"""

import json
import sys
from typing import Any

from eth_account import Account  # type: ignore[import-not-found]
from x402 import x402ClientSync  # type: ignore[import-not-found]
from x402.extensions.payment_identifier import (  # type: ignore[import-not-found]
    append_payment_identifier_to_extensions,
)
from x402.http import (  # type: ignore[import-not-found]
    decode_payment_required_header,
    encode_payment_signature_header,
)
from x402.mechanisms.evm import EthAccountSigner  # type: ignore[import-not-found]
from x402.mechanisms.evm.exact.register import register_exact_evm_client  # type: ignore[import-not-found]

told = json.load(sys.stdin)
client = register_exact_evm_client(x402ClientSync(), EthAccountSigner(Account.from_key(told["key"])))


def name(context: Any) -> None:
    """Give the request its identifier."""
    append_payment_identifier_to_extensions(context.payment_required.extensions, told["identifier"])


if told.get("identifier"):
    client.on_before_payment_creation(name)
required = decode_payment_required_header(told["required"])
signed = [encode_payment_signature_header(client.create_payment_payload(required)) for _ in range(told["times"])]
print(json.dumps(signed))
