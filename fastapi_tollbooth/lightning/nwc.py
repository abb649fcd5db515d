"""Any wallet that speaks Nostr Wallet Connect: https://github.com/nostr-protocol/nips/blob/master/47.md.

Needs the extra ``nwc``. The connection string is the key: take one that may receive and not pay.
"""

import asyncio
import json
import logging
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.lightning import (
    Capabilities,
    InvoiceState,
    InvoiceStatus,
    LightningUnavailable,
    UncheckedInvoice,
)
from fastapi_tollbooth.lightning.nostr import Event, Keys, decrypt, encrypt, encrypt_04
from fastapi_tollbooth.lightning.relay import Relay
from fastapi_tollbooth.lightning.rest import bytes32, moment, reading, uses_tls, whole
from fastapi_tollbooth.lightning.tls import tls_context
from fastapi_tollbooth.settings import LightningSettings

logger = logging.getLogger("fastapi_tollbooth.lightning")

_NAME = "NWC"
_SCHEMES = ("nostr+walletconnect", "nostrwalletconnect")
_REQUEST_KIND = 23_194
# Of unauthorized and restricted connections the owner has to make new ones.
_ERRORS = ("RATE_LIMITED", "NOT_IMPLEMENTED", "QUOTA_EXCEEDED", "RESTRICTED", "UNAUTHORIZED", "INTERNAL", "OTHER")


class NwcNode:
    """A wallet behind Nostr relays. Implements `LightningBackend`.

    Amounts are on the wire in msat, but many wallets can ask for whole satoshis only.
    """

    capabilities = Capabilities(recheck_seconds=30.0)

    def __init__(self, settings: LightningSettings) -> None:
        wallet, secret, relays = _connection(settings.url.get_secret_value() if settings.url else "")
        try:
            self._keys = Keys(secret)
            self._shared = self._keys.shared(wallet)
        except ValueError:
            raise _not_a_connection() from None
        self._wallet = wallet.hex()
        self._timeout = settings.timeout
        context = tls_context(settings.tls_cert, settings.pin) if uses_tls(relays, settings) else None
        self._relay = Relay(relays, context, self._wallet, self._keys.public.hex(), settings.timeout)

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        """``make_invoice``; the external id is metadata."""
        params: dict[str, Any] = {"amount": amount_msat, "description": description, "expiry": expiry_seconds}
        if external_id:
            params["metadata"] = {"external_id": external_id}
        answer = await self._call("make_invoice", params)
        with reading(_NAME):
            made = _result(answer)
            return UncheckedInvoice(bytes32(made["payment_hash"]), str(made["invoice"]))

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """``lookup_invoice``."""
        params = {"payment_hash": payment_hash.hex()}
        # Relays hang up on whoever is silent for long, and a question may be asked again.
        answer = await self._call("lookup_invoice", params, tries=2)
        with reading(_NAME):
            if answer.get("error") and answer["error"]["code"] == "NOT_FOUND":
                return InvoiceStatus(InvoiceState.UNKNOWN)
            found = _result(answer)
            if bytes32(found["payment_hash"]) != payment_hash or found.get("type", "incoming") != "incoming":
                raise ValueError("another payment")
            return _status(found)

    async def aclose(self) -> None:
        """Hang up."""
        await self._relay.aclose()

    async def _call(self, method: str, params: dict[str, Any], *, tries: int = 1) -> Any:
        deadline = asyncio.get_running_loop().time() + self._timeout
        for attempt in range(1, tries + 1):
            try:
                async with asyncio.timeout_at(deadline):
                    request = self._request(method, params, await self._relay.info())
                    content = (await self._relay.ask(request)).content
                break
            except (LightningUnavailable, TimeoutError) as error:
                problem = str(error) or "no answer in time"
            logger.warning("the wallet behind NWC could not be asked (attempt %d of %d): %s", attempt, tries, problem)
        else:
            raise LightningUnavailable(f"the wallet behind NWC could not be asked: {problem}")
        with reading(_NAME):
            answer = json.loads(decrypt(self._shared, content))
            if answer["result_type"] != method:
                raise ValueError("an answer to another question")
            return answer

    def _request(self, method: str, params: dict[str, Any], info: Event | None) -> Event:
        text, now = json.dumps({"method": method, "params": params}), int(time.time())
        # A wallet that comes back later must not make invoices for callers who have gone.
        tags = [["p", self._wallet], ["expiration", str(now + int(self._timeout) + 1)]]
        if info is not None and "nip44_v2" in (info.tag("encryption") or ""):
            tags.append(["encryption", "nip44_v2"])
            return self._keys.sign(_REQUEST_KIND, tags, encrypt(self._shared, text), now)
        return self._keys.sign(_REQUEST_KIND, tags, encrypt_04(self._shared, text), now)


def _result(answer: Any) -> Any:
    if answer.get("error") is None:
        return answer["result"]
    code = answer["error"]["code"]
    logger.error("the wallet behind NWC answers with an error: %s", code if code in _ERRORS else "an unknown one")
    raise LightningUnavailable("the wallet behind NWC answers with an error")


def _status(found: Any) -> InvoiceStatus:
    # Older wallets give no state; a preimage is none either, as some tell it of unpaid invoices.
    settled_at, expires_at = moment(found.get("settled_at")), moment(found.get("expires_at"))
    state = found.get("state") or ("pending" if settled_at is None else "settled")
    match state:
        case "settled":
            return InvoiceStatus(InvoiceState.SETTLED, whole(found["amount"]), settled_at)
        case "failed":
            return InvoiceStatus(InvoiceState.FAILED)
        case "expired":
            return InvoiceStatus(InvoiceState.EXPIRED)
        case "pending" | "accepted":
            expired = state == "pending" and expires_at is not None and expires_at <= datetime.now(UTC)
            return InvoiceStatus(InvoiceState.EXPIRED if expired else InvoiceState.PENDING)
    raise ValueError("another state")


def _connection(text: str) -> tuple[bytes, bytes, list[str]]:
    """The wallet's public key, our secret, and the relays."""
    parts = urlsplit(text.strip())
    query = parse_qs(parts.query)
    relays = [relay for relay in query.get("relay", []) if urlsplit(relay).scheme in ("ws", "wss")]
    try:
        wallet, secret = bytes32(parts.netloc or parts.path), bytes32(query["secret"][0])
    except (LookupError, ValueError):
        raise _not_a_connection() from None
    if parts.scheme not in _SCHEMES or not relays:
        raise _not_a_connection()
    return wallet, secret, relays


def _not_a_connection() -> ConfigurationError:
    return ConfigurationError(
        "node_address",
        "TOLLBOOTH_LIGHTNING__URL must be the connection string of a wallet that speaks Nostr Wallet Connect: "
        "nostr+walletconnect://<key>?relay=wss://...&secret=...",
    )
