"""What a payer signed, and whether it is what was asked for. Pure.

Nothing that the payer merely says is believed: the fields of the signed authorization itself are compared with our own
offer. The signature is the facilitator's business.

Sources: specs/schemes/exact/scheme_exact_evm.md of the x402 repository; EIP-3009 (https://eips.ethereum.org/EIPS/eip-3009).
"""

from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.rails.x402.networks import Network
from fastapi_tollbooth.rails.x402.svm import transfer_of
from fastapi_tollbooth.rails.x402.wire import malformed

PERMIT2_PROXY = "0x402085c248eea27d92e8b30b2c58ed07f9e20001"
"""The contract that may move what was signed for Permit2, the same on every chain."""

EXPIRY_MARGIN = 6
"""Seconds that an authorization must still be good for, as facilitators ask: a transfer takes a few blocks."""

Address = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$", to_lower=True)]
Nonce = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{64}$", to_lower=True)]
Number = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,77})$")]
Signature = Annotated[str, StringConstraints(pattern=r"^0x([0-9a-fA-F]{2}){1,4096}$")]


class Asked(NamedTuple):
    """What one offer asks for: ``amount`` atomic units of the network's token, to ``pay_to``, on that network."""

    network: Network
    amount: int
    pay_to: str


class Payment(NamedTuple):
    """What was signed. ``spend_key`` names this authorization and no other, whatever its signature looks like.

    Attributes:
        spend_key: Unique for ever; see above.
        payer: Whose money it is.
        nonce: What makes it unusable twice on its chain.
        amount: Atomic units of the network's token.
        valid_after: When it begins to be good, in seconds since 1970.
        valid_before: When it expires; None where the chain has its own rule.
    """

    spend_key: str
    payer: str
    nonce: str
    amount: int
    valid_after: int = 0
    valid_before: int | None = None


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class _Authorization(_Signed):
    payer: Address = Field(alias="from")
    to: Address
    value: Number
    valid_after: Number = Field(alias="validAfter")
    valid_before: Number = Field(alias="validBefore")
    nonce: Nonce


class _Eip3009(_Signed):
    signature: Signature
    authorization: _Authorization


class _Permitted(_Signed):
    token: Address
    amount: Number


class _Witness(_Signed):
    to: Address
    valid_after: Number = Field(alias="validAfter")


class _Permit(_Signed):
    payer: Address = Field(alias="from")
    permitted: _Permitted
    spender: Address
    nonce: Number
    deadline: Number
    witness: _Witness


class _Permit2(_Signed):
    signature: Signature
    permit: _Permit = Field(alias="permit2Authorization")


class _Svm(_Signed):
    transaction: Annotated[str, StringConstraints(max_length=4_096)]


def read_payment(payload: dict[str, Any], asked: Asked) -> Payment:
    """The payment that a scheme's payload holds, if it is in the token and to the recipient that was asked for.

    Raises:
        CredentialRefused: it cannot be read, or pays somebody else or in something else.
    """
    try:
        if not asked.network.is_evm:
            return _read_svm(_Svm.model_validate(payload), asked)
        if asked.network.token.method == "permit2":
            return _read_permit2(_Permit2.model_validate(payload), asked)
        return _read_eip3009(_Eip3009.model_validate(payload), asked)
    except ValidationError as error:
        raise malformed("the signed authorization is not of the kind that was asked for") from error


def wrong_amount() -> CredentialRefused:
    """What a caller is told whose payment is of another amount than what is asked for."""
    return CredentialRefused("wrong_amount", "The payment is not the amount that this request costs.")


def mismatch(payment: Payment, asked: Asked, now: float) -> CredentialRefused | None:
    """Why a payment that was not made yet cannot be taken now; None when it is what was asked for."""
    if payment.amount != asked.amount:
        return wrong_amount()
    if payment.valid_after > now:
        return CredentialRefused("payment_not_yet_valid", "The payment is not valid yet.")
    if payment.valid_before is not None and payment.valid_before < now + EXPIRY_MARGIN:
        return CredentialRefused("payment_expired", "The payment has expired, or is about to.")
    return None


def _read_eip3009(signed: _Eip3009, asked: Asked) -> Payment:
    # The token and the chain are part of what was signed (EIP-712), so a signature for others does not verify.
    authorization = signed.authorization
    _require_recipient(authorization.to, asked)
    return Payment(
        spend_key(asked.network, authorization.payer, authorization.nonce),
        authorization.payer,
        authorization.nonce,
        int(authorization.value),
        int(authorization.valid_after),
        int(authorization.valid_before),
    )


def _read_permit2(signed: _Permit2, asked: Asked) -> Payment:
    permit = signed.permit
    if permit.spender != PERMIT2_PROXY:
        raise CredentialRefused("wrong_recipient", "The permit allows another contract than x402's to take the money.")
    if permit.permitted.token != asked.network.token.address.lower():
        raise CredentialRefused("wrong_asset", "The payment is in another token than the one asked for.")
    _require_recipient(permit.witness.to, asked)
    nonce = f"permit2-{permit.nonce}"
    return Payment(
        spend_key(asked.network, permit.payer, nonce),
        permit.payer,
        nonce,
        int(permit.permitted.amount),
        int(permit.witness.valid_after),
        int(permit.deadline),
    )


def _read_svm(signed: _Svm, asked: Asked) -> Payment:
    transfer = transfer_of(signed.transaction)
    if transfer.mint != asked.network.token.address:
        raise CredentialRefused("wrong_asset", "The payment is in another token than the one asked for.")
    if transfer.destination not in transfer.accounts_of(asked.pay_to):
        raise CredentialRefused("wrong_recipient", "The payment is to somebody else.")
    key = spend_key(asked.network, transfer.payer, transfer.digest)
    return Payment(key, transfer.payer, transfer.digest, transfer.amount)


def spend_key(network: Network, payer: str, nonce: str) -> str:
    """The name of one authorization, for ever: (network, token, payer, nonce)."""
    token = network.token.address.lower() if network.is_evm else network.token.address
    return f"x402:{network.id}:{token}:{payer}:{nonce}"


def _require_recipient(recipient: str, asked: Asked) -> None:
    if recipient != asked.pay_to.lower():
        raise CredentialRefused("wrong_recipient", "The payment is to somebody else.")
