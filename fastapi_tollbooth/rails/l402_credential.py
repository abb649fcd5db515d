"""L402 credentials as they come in headers: every form that clients are known to send, and what each must hold. Pure.

``Authorization: L402 <macaroon>[,<macaroon>...]:<preimage>`` is the form of the protocol specification, §5; the hex
headers are what gRPC clients send.
"""

import hashlib
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from fastapi_tollbooth.errors import AmbiguousRequest, CredentialRefused
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.money import Asset
from fastapi_tollbooth.rails import RawHeaders
from fastapi_tollbooth.rails.caveats import Bounds, judge
from fastapi_tollbooth.rails.macaroon import Kind, Token, decode_base64, malformed, open_token, peek_payment_hash

MAX_CREDENTIAL = 4_096
MAX_MACAROONS = 4

_CREDENTIAL = re.compile(rb"(?:(?:L402|LSAT) +)+([A-Za-z0-9+/=_,-]+) *: *([0-9a-f]{64})", re.IGNORECASE)
_HEX = re.compile(rb"(?:[0-9a-f]{2})+", re.IGNORECASE)
_PREIMAGE_CAVEAT = re.compile(rb"preimage=([0-9a-fA-F]{64})")
_SCHEMES = (b"l402", b"lsat")
_HEX_HEADERS = (b"macaroon", b"grpc-metadata-macaroon")
_AUTHORIZATION = b"authorization"


@dataclass(slots=True)
class L402Credential:
    """The header lines that carry an L402 credential, as they came."""

    lines: tuple[tuple[bytes, bytes], ...] = field(repr=False)

    @property
    def digest(self) -> bytes:
        """A name for exactly these bytes that reveals nothing of them."""
        return hashlib.sha256(b"\n".join([value for _, value in self.lines])).digest()


@dataclass(frozen=True, slots=True)
class Verified:
    """What a credential was found to be.

    Attributes:
        token: What it says.
        bounds: What it is good for.
        account: The key of the account behind it.
        asset: What that account is kept in.
        account_id: The account's id, once that is known.
        credited: Whether its payment is known to be in the ledger.
    """

    token: Token
    bounds: Bounds
    account: str
    asset: Asset
    account_id: int | None = None
    credited: bool = False

    @property
    def tops_up(self) -> bool:
        """Whether its payment credits an account that was there before."""
        return self.bounds.account is not None and self.token.identifier.kind is Kind.INVOICE


def account_key(payment_hash: bytes) -> str:
    """The key of the account that one Lightning payment opened."""
    return f"l402:{payment_hash.hex()}"


def find(headers: RawHeaders) -> L402Credential | None:
    """The lines that carry an L402 credential; other schemes of ``Authorization`` are somebody else's."""
    lines = tuple(
        [
            (name, value)
            for name, value in headers
            if (name == _AUTHORIZATION and value.lstrip()[:4].lower() in _SCHEMES) or name in _HEX_HEADERS
        ]
    )
    return L402Credential(lines) if lines else None


def parse(credential: L402Credential) -> tuple[bytes, bytes]:
    """The raw macaroon and the preimage of a credential; the macaroon is the one that the preimage belongs to.

    Raises:
        CredentialRefused: no line can be read, or no macaroon belongs to the preimage.
        AmbiguousRequest: lines with different credentials.
    """
    found: dict[bytes, tuple[bytes, bytes]] = {}
    problem: CredentialRefused | None = None
    for name, line in credential.lines:
        try:
            macaroon, preimage = _parse_hex(line) if name in _HEX_HEADERS else _parse_authorization(line)
            found[hashlib.sha256(preimage).digest()] = (macaroon, preimage)
        except CredentialRefused as refused:
            problem = refused
    if len(found) > 1:
        raise AmbiguousRequest(
            "ambiguous_credential", "The request carries two different payment credentials. Send one."
        )
    if not found:
        raise problem or malformed("there is none")
    return next(iter(found.values()))


def verify(keys: KeyRing, service: str, known: Collection[str], presented: tuple[bytes, bytes]) -> Verified:
    """Check everything about a credential that can be known without asking anybody and holds for every request.

    Raises:
        CredentialRefused: forged, for another service, or a preimage that does not belong to it.
    """
    raw, preimage = presented
    token = open_token(keys, raw)
    if not hmac.compare_digest(hashlib.sha256(preimage).digest(), token.identifier.payment_hash):
        raise CredentialRefused("wrong_preimage", "The preimage does not belong to this macaroon's payment.")
    bounds = judge(token, service, known)
    account = bounds.account or account_key(token.identifier.payment_hash)
    return Verified(token, bounds, account, token.identifier.credit.asset)


def _parse_authorization(line: bytes) -> tuple[bytes, bytes]:
    if len(line) > MAX_CREDENTIAL:
        raise malformed("it is too long")
    match = _CREDENTIAL.fullmatch(line.strip())
    if match is None:
        raise malformed('write "L402 <macaroon in base64>:<preimage in 64 hex digits>"')
    preimage = bytes.fromhex(match[2].decode())
    macaroons = match[1].split(b",")
    if len(macaroons) > MAX_MACAROONS:
        raise malformed("too many macaroons")
    payment_hash = hashlib.sha256(preimage).digest()
    raw = [decode_base64(text) for text in macaroons if text]
    matching = [macaroon for macaroon in raw if peek_payment_hash(macaroon) == payment_hash]
    if matching:
        return matching[0], preimage
    if not raw:
        raise malformed("there is no macaroon")
    return raw[0], preimage


def _parse_hex(line: bytes) -> tuple[bytes, bytes]:
    # The form of gRPC clients: the macaroon in hex, the preimage as its last caveat.
    if len(line) > MAX_CREDENTIAL or _HEX.fullmatch(line) is None:
        raise malformed("the macaroon header is not hex, or is too long")
    raw = bytes.fromhex(line.decode())
    match = _PREIMAGE_CAVEAT.search(raw)
    if match is None:
        raise malformed("the macaroon has no preimage caveat")
    return raw, bytes.fromhex(match[1].decode())


def claimed_hash(credential: L402Credential) -> bytes | None:
    """The payment hash that a credential claims to have paid, whether or not it is good; None when it is unreadable."""
    try:
        return hashlib.sha256(parse(credential)[1]).digest()
    except (CredentialRefused, AmbiguousRequest):
        return None
