"""What the parts of the tollbooth that see one request know of it in common: its engine, and its toll."""

from typing import Protocol

from starlette.requests import HTTPConnection

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.rails import Receipt
from fastapi_tollbooth.toll import Quote, Toll

SCOPE_KEY = "fastapi_tollbooth"


class Engine(Protocol):
    """What a request needs of a `Tollbooth`."""

    @property
    def price_body_limit(self) -> int:
        """Bytes of a body that may be read to find its price."""
        ...

    @property
    def toll_deadline(self) -> float:
        """Seconds after which an open toll is taken for one that was left behind."""
        ...

    def succeeded(self, status: int) -> bool:
        """Whether a response with this status is what the caller pays for."""
        ...

    @property
    def looks_at_responses(self) -> bool:
        """Whether `waives` has to be asked."""
        ...

    async def waives(self, toll: Toll, status: int, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether the owner gives this response away, or raise the refusal that the caller gets instead of it."""
        ...

    def failed(self, error: Exception, toll: Toll | None) -> None:
        """Hear of a request that failed by the service's fault."""
        ...

    async def hold(self, toll: Toll) -> Receipt:
        """Make sure of a metered toll's money, or raise the refusal that the caller gets instead of the response."""
        ...

    async def capture(self, toll: Toll) -> Receipt:
        """Earn the toll's money, or raise the refusal that the caller gets instead of the response."""
        ...

    async def void(self, toll: Toll) -> None:
        """Give the toll's money back, whoever cancels the request meanwhile."""
        ...


class Visit:
    """What dependencies and the settlement layer share about a request: its engine, and its toll once there is one."""

    # On the class, because unpriced requests never set them.
    toll: Toll | None = None
    quote: Quote | None = None
    """The quote of a request that was priced before its body was read; without the connection."""
    began = 0.0
    """When a metered toll was asked for, on the monotonic clock."""
    deferred = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine


def visit_of(connection: HTTPConnection) -> Visit:
    """The visit that this request is.

    Raises:
        ConfigurationError: no tollbooth is installed on the application.
    """
    visit = connection.scope.get(SCOPE_KEY)
    if not isinstance(visit, Visit):
        raise ConfigurationError(
            "no_tollbooth",
            "a priced route was called, and no tollbooth is installed on its application: "
            "call tollbooth.install(app) where the application is made",
        )
    return visit
