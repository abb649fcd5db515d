"""A caller's side of x402: unsigned payloads of every shape. Who checks signatures is the facilitator."""

import base64
import json
import secrets
import time
from typing import Any

PAYER = "0x" + "ab" * 20
PAY_TO = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
SIGNATURE = "0x" + "11" * 65


def encode(document: Any) -> str:
    """A document as a header value."""
    return base64.b64encode(json.dumps(document).encode()).decode()


def decode(value: str) -> Any:
    """The document of a header value."""
    return json.loads(base64.b64decode(value, validate=True))


def authorization(value: int | str, to: str = PAY_TO, **changes: Any) -> dict[str, Any]:
    """What an EIP-3009 payer signs."""
    return {
        "from": PAYER,
        "to": to,
        "value": str(value),
        "validAfter": "0",
        "validBefore": str(int(time.time()) + 300),
        "nonce": "0x" + secrets.token_hex(32),
    } | changes


def payload(value: int | str, to: str = PAY_TO, **changes: Any) -> dict[str, Any]:
    """The scheme's payload: signature and authorization."""
    return {"signature": SIGNATURE, "authorization": authorization(value, to, **changes)}


def sign(accepted: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A version-2 payment for one entry of ``accepts``."""
    return {
        "x402Version": 2,
        "accepted": accepted,
        "payload": payload(accepted["amount"], accepted["payTo"], **changes),
    }


def sign_v1(accepted: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A version-1 payment for one entry of ``accepts``."""
    return {
        "x402Version": 1,
        "scheme": accepted["scheme"],
        "network": accepted["network"],
        "payload": payload(accepted["maxAmountRequired"], accepted["payTo"], **changes),
    }
