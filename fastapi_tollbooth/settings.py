"""TollboothSettings: everything that an owner can set, from ``TOLLBOOTH_*`` variables, ``.env`` or arguments."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from fastapi_tollbooth.access import TrustedProxies, parse_proxies
from fastapi_tollbooth.bundles import Bundle, parse_bundles
from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.money import Money, Rate
from fastapi_tollbooth.terms import RateLimit

PREFIX = "TOLLBOOTH_"
MIN_SECRET_LENGTH = 32
NO_CAP = 1_000_000
SECRETS = Path("/run/secrets")
"""Where Docker and Podman put secrets: one file for each variable, named like it."""


def _rate(value: Any) -> Any:
    return Rate.parse(format(Decimal(str(value)), "f")) if isinstance(value, int | float) else _text(value, Rate.parse)


def _top_up(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else _text(value, Money.parse)


def _price(value: Any) -> Any:
    return _text(value, Money.parse)


def _networks(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.lstrip().startswith("[") else _names(value)


def _names(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _database(value: str) -> str:
    try:
        make_url(value)
    except ArgumentError as error:
        raise ValueError('it is not the URL of a database: write "sqlite:///tollbooth.db"') from error
    return value


def _limit(value: Any) -> Any:
    return _text(value, RateLimit.parse)


def _bundles(value: Any) -> Any:
    return parse_bundles(json.loads(value) if isinstance(value, str) else value)


def _something(value: int | Money) -> int | Money:
    if (value.amount if isinstance(value, Money) else value) < 1:
        raise ValueError("it must be something: at least one request, or an amount above zero")
    return value


def _text(value: Any, parse: Any) -> Any:
    return parse(value) if isinstance(value, str) else value


class X402Asset(BaseModel):
    """A dollar token that the built-in table does not know. ``name`` and ``version`` are its EIP-712 domain."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    decimals: int = Field(default=6, ge=0, le=36)
    name: str = "USDC"
    version: str = "2"
    method: Literal["eip3009", "permit2"] = "eip3009"


class X402Settings(BaseModel):
    """Stablecoin payments over x402; off without ``pay_to``. Each field is the variable ``TOLLBOOTH_X402__<FIELD>``."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    pay_to: str | dict[str, str] | None = None
    """Your address; or a JSON map of network to address."""

    networks: Annotated[list[str], NoDecode, BeforeValidator(_networks)] = []
    """The chains that payments are taken on, CAIP-2 ids or familiar names: a JSON list, or comma-separated; by default
    those of a ``pay_to`` map."""

    facilitator_url: str | list[str] | dict[str, str | list[str]] = "https://x402.org/facilitator"
    """Who checks and settles payments: a URL; a JSON list, of which the first settles and the others help to verify; or
    a JSON map of network to either. The default serves test networks only."""

    assets: dict[str, X402Asset] = {}
    """JSON map of network to the token that is taken there in place of USDC."""

    rpc_url: str | dict[str, str] | None = None
    """A node of the chain, or a JSON map of network to node; asked only about settlements whose answer was lost."""

    settle: Literal["after", "before"] = "after"
    """When money moves: after the handler has succeeded, or before it runs; ``priced(..., settle=...)`` overrides."""

    max_timeout: int = Field(default=300, ge=30, le=86_400)
    """Seconds that a payer's signature should stay valid: longer than your slowest handler."""

    discovery: bool = True
    """Whether 402s describe their routes to the directories of facilitators, as far as ``/openapi.json`` does."""

    identifiers: Literal["off", "optional", "required"] = "optional"
    """Whether payers may give their requests identifiers, so that one sent again gets the same answer, or must."""

    answers_kept: int = Field(default=3_600, ge=60, le=86_400)
    """Seconds that the answer to a request with an identifier is kept, sealed, to be given again."""

    cdp_api_key_id: str | None = None
    """Coinbase Developer Platform: the name of the API key, for its facilitator."""

    cdp_api_key_secret: SecretStr | None = None
    """Coinbase Developer Platform: the API key's secret."""


_PREFIXES = {"mainnet": "bc", "testnet": "tb", "signet": "tbs", "regtest": "bcrt"}


class LightningSettings(BaseModel):
    """The Lightning node that receives the service's money. Each field is ``TOLLBOOTH_LIGHTNING__<FIELD>``."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    backend: Literal["dev", "phoenixd", "lnd", "cln", "lnbits", "nwc", "none"] | None = None
    """What kind of node it is. By default the development node in development, and none in production."""

    url: SecretStr | None = None
    """Where the node listens; by default where such a node listens on this machine. For NWC the connection string."""

    api_key: SecretStr | None = None
    """The key to the node: phoenixd's password, LND's macaroon in hex, Core Lightning's rune, LNbits' invoice key. Give
    the service one that can make invoices and look them up, and no more."""

    tls_cert: Path | None = None
    """A PEM file with the certificate of a node that made its own, or with that of its authority."""

    tls_pin: str | None = Field(default=None, pattern=r"^(?:[0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}$")
    """The SHA-256 fingerprint, in hex, of the one certificate that the node may have."""

    network: Literal["mainnet", "testnet", "signet", "regtest"] | None = None
    """The network that invoices must be of; by default ``mainnet`` in production, and any in development."""

    timeout: float = Field(default=10.0, gt=0, le=60)
    """Seconds that the node has to answer."""

    @property
    def pin(self) -> bytes | None:
        """The fingerprint's 32 bytes."""
        return None if self.tls_pin is None else bytes.fromhex(self.tls_pin.replace(":", ""))


class TollboothSettings(BaseSettings):
    """The settings of a `Tollbooth`. Each field is the variable ``TOLLBOOTH_<FIELD>``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    environment: Literal["development", "production"] = "development"
    """``production`` refuses everything that is only safe on a developer's machine."""

    mode: Literal["enforce", "observe"] = "enforce"
    """``observe`` serves everything without payment and records what it would have cost, for a safe roll-out."""

    database_url: Annotated[str, AfterValidator(_database)] = Field(default="sqlite:///tollbooth.db", repr=False)
    """Where the ledger is kept: ``sqlite:///…`` or ``postgresql://user:password@host/database``."""

    secret: SecretStr | None = None
    """The key ring that signs credentials: comma-separated, newest first, each at least 32 characters. In development
    it is made once and kept beside the database."""

    service: str = Field(default="tollbooth", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """The name that credentials are bound to; services with different names do not accept each other's."""

    top_up: Annotated[int | Money, NoDecode, BeforeValidator(_top_up), AfterValidator(_something)] = 1
    """What one Lightning payment buys: an amount such as ``$1``, or a count of requests at the price asked."""

    min_invoice: Annotated[Money | None, NoDecode, BeforeValidator(_price)] = None
    """The least that a Lightning invoice asks, such as ``100 sat``; it buys what it is worth."""

    bundles: Annotated[tuple[Bundle, ...], NoDecode, BeforeValidator(_bundles)] = ()
    """Offers of more credit than they cost, as JSON: ``[{"pay": "10000 sat", "get": "11000 sat"}]``."""

    btc_usd: Annotated[Rate | None, NoDecode, BeforeValidator(_rate)] = None
    """Dollars for one bitcoin, for prices in dollars that are paid over Lightning."""

    rate_tickers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = ("bitstamp", "coinbase", "kraken")
    """Public tickers whose median is the exchange rate in production where ``btc_usd`` is not set: two at least of
    bitstamp, coinbase, gemini and kraken."""

    rate_max_age: float = Field(default=900.0, ge=60, le=86_400)
    """Seconds that the last rate of the tickers is used when they no longer answer or agree."""

    default_price: Annotated[Money | None, NoDecode, BeforeValidator(_price)] = None
    """What priced routes cost where their own price says nothing."""

    trusted_proxies: Annotated[TrustedProxies, NoDecode, BeforeValidator(parse_proxies)] = ()
    """Whose ``X-Forwarded-For`` is believed, where the ASGI server does not see to it: the number of proxies in front,
    or their networks, comma-separated."""

    free_tier: Annotated[
        int | Money | None,
        NoDecode,
        BeforeValidator(_top_up),
        AfterValidator(lambda value: value if value is None else _something(value)),
    ] = None
    """What each client gets free each day (UTC): a number of requests, or requests worth an amount (``$0.05``)."""

    free_rate_limit: Annotated[RateLimit | None, NoDecode, BeforeValidator(_limit)] = RateLimit.parse("60/minute")
    """How often one client gets something free, on all routes without a limit of their own; ``off`` for no limit."""

    unpaid_rate_limit: Annotated[RateLimit | None, NoDecode, BeforeValidator(_limit)] = RateLimit.parse("300/minute")
    """How often one client is answered with a 402, which may cost the node an invoice; ``off`` for no limit. In
    development there is none unless this is set."""

    rate_limit_storage: SecretStr = SecretStr("memory")
    """Where calls are counted for rate limits: ``memory``, each worker for itself, or a Redis for all of them such as
    ``redis://127.0.0.1:6379/0``."""

    price_body_limit: int = Field(default=65_536, ge=1)
    """Bytes of a body that are read to find its price; larger bodies get 413 on routes whose price depends on them."""

    invoice_expiry: int = Field(default=600, ge=30, le=86_400)
    """Seconds that an invoice can be paid."""

    credit_lifetime_days: int = Field(default=365, ge=1, le=3_650)
    """Days after its purchase that a credential stays valid."""

    credit_expires_days: int | None = Field(default=None, ge=1, le=3_650)
    """Days after the last payment that credit ends; by default it does not."""

    invoices_per_client: int = Field(default=20, ge=1)
    """Invoices that one caller may cause in a minute, per process; more get 429. The development node makes as many as
    it is asked for, unless this is set."""

    invoices_per_minute: int = Field(default=600, ge=1)
    """Invoices that all callers together may cause in a minute, per process; more get 429. The development node makes
    as many as it is asked for, unless this is set."""

    settlement_wait: float = Field(default=3.0, ge=0, le=30)
    """Seconds that a request waits for the node to confirm a payment that the caller has proof of."""

    toll_deadline: float = Field(default=900.0, gt=0)
    """Seconds after which a toll that was neither captured nor voided belongs to a process that ended: it is voided.
    Longer than your slowest handler needs until its response starts, or, where it is metered, ends: metered responses
    that take four fifths of it are charged then, and cannot use more."""

    tune_gc: bool = False
    """Whether garbage collection is tuned once the application has started, for the whole process: it leaves alone what
    is alive then (`gc.freeze`), and at new objects until there are fifty thousand. Paid requests are served about a
    quarter faster, and the slowest of them much faster."""

    public_url: str | None = Field(default=None, pattern=r"^https?://[^\s?#]+$")
    """Where callers reach the service, such as ``https://api.example.com``; by default what their requests say."""

    x402: X402Settings = X402Settings()
    """Stablecoin payments, in variables named ``TOLLBOOTH_X402__<FIELD>``."""

    lightning: LightningSettings = LightningSettings()
    """The Lightning node, in variables named ``TOLLBOOTH_LIGHTNING__<FIELD>``."""

    @property
    def lightning_backend(self) -> str:
        """The kind of node, with the default of the environment."""
        return self.lightning.backend or ("none" if self.environment == "production" else "dev")

    @property
    def invoice_network(self) -> str | None:
        """The prefix of the network that invoices must be of; None for any."""
        network = self.lightning.network or ("mainnet" if self.environment == "production" else None)
        return None if network is None else _PREFIXES[network]

    @model_validator(mode="after")
    def _let_developers_try(self) -> Self:
        # Test suites and load generators are one client that meets many a 402.
        if self.environment == "development" and "unpaid_rate_limit" not in self.model_fields_set:
            self.unpaid_rate_limit = None
        if self.lightning_backend == "dev":
            for cap in {"invoices_per_client", "invoices_per_minute"} - self.model_fields_set:
                setattr(self, cap, NO_CAP)
        return self

    def key_ring(self) -> tuple[bytes, ...]:
        """The configured secrets, newest first; empty when none is configured.

        Raises:
            ConfigurationError: a secret is shorter than 32 characters.
        """
        if self.secret is None:
            return ()
        keys = tuple(part.strip().encode() for part in self.secret.get_secret_value().split(","))
        if any(len(key) < MIN_SECRET_LENGTH for key in keys):
            raise ConfigurationError(
                "weak_secret",
                f"every secret in TOLLBOOTH_SECRET needs at least {MIN_SECRET_LENGTH} characters: "
                'python -c "import secrets; print(secrets.token_hex(32))" makes one',
            )
        return keys
