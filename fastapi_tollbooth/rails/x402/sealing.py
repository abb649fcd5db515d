"""Answers at rest: sealed, so that only the payment that bought one opens it. Pure, but for the cipher's nonce."""

import json
from typing import NamedTuple

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from fastapi_tollbooth.keeping import Response
from fastapi_tollbooth.money import Asset, Money

LEFT_OUT = {
    b"connection",
    b"date",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"server",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
"""Headers that are of one connection, or of one moment."""


class Answer(NamedTuple):
    """A response that was paid, and what its request has cost."""

    response: Response
    charge: Money


def seal(answer: Answer, secret: bytes) -> bytes:
    """An answer as it is kept."""
    response, charge = answer
    lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
    kept = [line for line in lines if line[0].lower().encode("latin-1") not in LEFT_OUT]
    head = json.dumps([response.status, kept, charge.amount, charge.asset.value])
    return bytes(SecretBox(secret).encrypt(head.encode() + b"\n" + response.body))


def unseal(sealed: bytes, secret: bytes) -> Answer | None:
    """The answer; None when it was sealed for another payment."""
    try:
        head, _, body = SecretBox(secret).decrypt(sealed).partition(b"\n")
    except CryptoError:
        return None
    status, lines, amount, asset = json.loads(head)
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in lines)
    return Answer(Response(status, headers, body), Money(amount, Asset(asset)))
