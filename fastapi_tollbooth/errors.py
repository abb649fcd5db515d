"""Everything that this package raises.

    TollboothError
    ├── ConfigurationError          the owner wrote something that cannot work; raised at declaration, install or start
    ├── CredentialRefused           a payment credential is not good; the engine answers it with a fresh 402
    ├── RailUnavailable             a rail cannot offer a challenge now; it is left out of the 402
    │   └── TooManyChallenges       because it has made enough of them
    ├── TollExceeded                a handler uses more than its toll holds
    ├── TollClosed                  a handler decides about its toll when it is decided
    ├── LedgerRefused               the ledger does not do what the owner asks of it
    └── Refusal (HTTPException)     what a caller is told instead of being served
        ├── AmbiguousRequest    400 the request can be read in two ways
        ├── Unauthorized        401 asked for what is free, without the credential that it takes
        ├── PaymentRequired     402 pay one of the challenges and come again
        ├── Forbidden           403 policy, not money
        ├── Conflict            409 another request works on the same payment; later, with Retry-After
        ├── NotFound            404 there is no such thing
        ├── BodyTooLarge        413 the price depends on a body that is larger than allowed
        ├── Rejected            ... a hook of the owner's refused, with a status of its own
        ├── TooManyRequests     429 later, with Retry-After
        ├── PricingFailed       500 the owner's pricing function failed; nothing was charged
        ├── HookFailed          500 another function of the owner's failed; nothing was charged
        └── Unavailable         503 a node, facilitator or the ledger did not answer; nothing was charged

Every refusal carries a stable ``reason`` slug and a ``detail`` sentence that tells the caller what to do; so does a
`ConfigurationError`, for the owner. None of them carries a secret.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

HeaderLines = tuple[tuple[str, str], ...]

CONFIGURATION_ERRORS = "https://github.com/fastapi-tollbooth/fastapi-tollbooth/blob/main/docs/configuration-errors.md"
"""The page of the documentation with a section for each ``reason`` of a `ConfigurationError`."""


class TollboothError(Exception):
    """The root of every error of this package."""


class ConfigurationError(TollboothError, ValueError):
    """The application or its settings are wrong in a way that only the owner can mend.

    ``detail`` says what is wrong and what to write instead, ``reason`` is a stable slug, and ``url`` the place in the
    documentation with its causes and cures. Printed, the error is the detail and the address.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    @property
    def url(self) -> str:
        """Where the documentation says more."""
        return f"{CONFIGURATION_ERRORS}#{self.reason}"

    def __str__(self) -> str:
        return f"{self.detail}\n    Causes and cures: {self.url}"


class CredentialRefused(TollboothError):
    """A payment credential is malformed, forged, expired, foreign or has too little money behind it.

    ``reason`` is the stable slug that the 402 carries, ``members`` and ``headers`` what else it should say.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        members: Mapping[str, Any] | None = None,
        headers: HeaderLines = (),
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.members = dict(members or {})
        self.headers = headers


class RailUnavailable(TollboothError):
    """A rail cannot make a challenge for this quote: its node is down, or it has no exchange rate."""


class TollExceeded(TollboothError):
    """A handler uses more than its toll holds. What was used before counts; the rest was not added."""


class TollClosed(TollboothError):
    """A handler decides what its toll costs when that is decided already, or bit by bit where it is not metered."""


class LedgerRefused(TollboothError):
    """The ledger does not do what the owner asks of it, and says why in ``reason``. Nothing changed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class TooManyChallenges(RailUnavailable):
    """A rail has made as many challenges as it may for now; ``retry_after`` is in seconds."""

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Refusal(TollboothError, HTTPException):
    """A typed refusal: an HTTP status, a stable ``reason`` and what the caller should do about it."""

    status = 500

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        members: Mapping[str, Any] | None = None,
    ) -> None:
        self.reason = reason
        self.members = dict(members or {})
        self.raw_headers = [
            (b"cache-control", b"no-store"),
            *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers),
        ]
        # A raw Headers object keeps repeated lines even under FastAPI's stock exception handler.
        HTTPException.__init__(self, self.status, detail, Headers(raw=self.raw_headers))


class AmbiguousRequest(Refusal):
    """400: two payment credentials, or a value that decides the price given twice."""

    status = 400


class Unauthorized(Refusal):
    """401: something that costs nothing was asked without a good credential. Never a challenge to pay."""

    status = 401

    def __init__(self, reason: str, detail: str, *, members: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason, detail, headers=[("WWW-Authenticate", "L402")], members=members)


class PaymentRequired(Refusal):
    """402: the members and header lines hold one challenge per rail that can take the money."""

    status = 402


class Forbidden(Refusal):
    """403: refused by policy; paying again does not help."""

    status = 403


class Conflict(Refusal):
    """409: another request is using the same payment; come back after ``retry_after`` seconds, if that is said."""

    status = 409

    def __init__(self, reason: str, detail: str, *, retry_after: int | None = 1) -> None:
        headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
        super().__init__(reason, detail, headers=headers)


class NotFound(Refusal):
    """404: there is no such thing, or it is none of the caller's business."""

    status = 404


class BodyTooLarge(Refusal):
    """413: the price depends on the body, and the body is larger than the owner reads for pricing."""

    status = 413


class Rejected(Refusal):
    """A hook of the owner's refused: 400 to 599, as it says."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        self.status = status
        super().__init__(reason, detail)


class TooManyRequests(Refusal):
    """429: come back after ``retry_after`` seconds."""

    status = 429

    def __init__(
        self, reason: str, detail: str, *, retry_after: int = 1, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__(reason, detail, headers=[("Retry-After", str(retry_after)), *headers])


class PricingFailed(Refusal):
    """500: the owner's own pricing code failed. The caller learns nothing more, and pays nothing."""

    status = 500


class HookFailed(Refusal):
    """500: a hook of the owner's failed, or what it returned means nothing. Nothing was charged, nothing was served."""

    status = 500


class Unavailable(Refusal):
    """503: something that must answer did not. Never a challenge: the same credential works later."""

    status = 503

    def __init__(self, reason: str, detail: str, *, retry_after: int = 2) -> None:
        super().__init__(reason, detail, headers=[("Retry-After", str(retry_after))])
