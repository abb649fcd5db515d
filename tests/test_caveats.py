"""What caveats allow, and that they only ever take away."""

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import ConfigurationError, Money
from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.rails.caveats import Bounds, judge, require_condition, require_value, write
from fastapi_tollbooth.rails.macaroon import Identifier, Token, mint, narrow, open_token

RING = KeyRing((b"n" * 32,))
NOW = time.time()
LATER = int(NOW) + 1_000


def token(*appended: str, account: str | None = None, owned: tuple[tuple[str, str], ...] = ()) -> Token:
    identifier = Identifier.new(bytes(32), Money.parse("$1"), None, RING.newest)
    macaroon = mint(RING, identifier, "svc", write("svc", LATER, account, owned))
    return open_token(RING, base64.b64decode(narrow(macaroon, *appended) if appended else macaroon))


def bounds(*appended: str, **minted: object) -> Bounds:
    return judge(token(*appended, **minted), "svc", {"region"})  # type: ignore[arg-type]


def refused(*appended: str, route: str = "/weather/{city}", now: float = NOW) -> str:
    with pytest.raises(CredentialRefused) as refusal:
        bounds(*appended).check(route, now)
    return refusal.value.reason


def test_a_token_as_it_was_sold() -> None:
    sold = bounds()
    sold.check("/anything", NOW)
    assert (sold.valid_until, sold.account, sold.caps, sold.owned, sold.narrowed) == (LATER, None, (), (), False)


def test_holders_narrow_the_time() -> None:
    bounds(f"svc_valid_until={int(NOW) + 60}").check("/x", NOW)
    assert refused(f"svc_valid_until={int(NOW) + 60}", now=NOW + 60) == "credential_expired"
    assert refused("svc_valid_until=1", f"svc_valid_until={LATER * 2}") == "credential_expired"
    assert refused(f"svc_valid_until={LATER * 2}", now=LATER) == "credential_expired"


@pytest.mark.parametrize("value", ["soon", "", "-1", "1e9", "2027-01-01T00:00:00Z", "9" * 16, "١"])
def test_an_expiry_that_cannot_be_read_is_refused_not_ignored(value: str) -> None:
    assert refused(f"svc_valid_until={value}") == "malformed_credential"


def test_holders_narrow_the_routes() -> None:
    bounds("svc_capabilities=/weather/{city},/joke").check("/weather/{city}", NOW)
    bounds("svc_capabilities=/v1/*").check("/v1/jokes/{number}", NOW)
    assert refused("svc_capabilities=/joke") == "wrong_route"
    assert refused("svc_capabilities=") == "wrong_route"
    assert refused("svc_capabilities=/joke", "svc_capabilities=*") == "wrong_route"
    assert refused("svc_capabilities=/WEATHER/{city}") == "wrong_route"


def test_a_cap_belongs_to_the_token_as_it_was_capped() -> None:
    first, second = token("svc_max_spend=$0.50", "x=1"), token("svc_max_spend=$0.50", "x=2")
    caps = judge(first, "svc", ()).caps
    assert [cap.limit for cap in caps] == [Money.parse("$0.50")]
    assert caps[0].key == first.prefix(3)
    # Made from the same token, they share the cap; made from another, they do not.
    assert first.identifier != second.identifier
    assert first.prefix(3) != second.prefix(3)
    again = Token(first.identifier, (*first.caveats[:3], ("x", "2")))
    assert judge(again, "svc", ()).caps == caps
    nested = judge(Token(first.identifier, (*first.caveats, ("svc_max_spend", "$0.05"))), "svc", ()).caps
    assert nested[0] == caps[0]
    assert nested[1].limit == Money.parse("$0.05")


@pytest.mark.parametrize("value", ["", "100", "-1 USD", "$1e3", "many", "100 sat"])
def test_a_cap_that_cannot_be_read_is_refused_not_ignored(value: str) -> None:
    assert refused(f"svc_max_spend={value}") == "malformed_credential"


def test_what_is_addressed_to_the_service_and_unknown_is_refused() -> None:
    assert refused("svc_colour=blue") == "unknown_caveat"
    assert refused("svc_account=l402:other") == "unknown_caveat"
    assert bounds("colour=blue", "other_valid_until=1", "nonsense", "preimage=00").valid_until == LATER


def test_what_the_service_minted_and_forgot_is_refused() -> None:
    with pytest.raises(CredentialRefused) as refusal:
        judge(token(owned=(("region", "eu"),)), "svc", ())
    assert refusal.value.reason == "unknown_caveat"


def test_handlers_see_what_the_service_minted_and_nothing_else() -> None:
    narrowed = bounds("region=us", "admin=1", owned=(("region", "eu"),))
    assert narrowed.shown == {"region": "eu"}
    assert narrowed.owned == (("region", "eu"), ("region", "us"))  # both must hold
    assert bounds("region=us").shown == {}


def test_only_minted_caveats_name_an_account() -> None:
    assert bounds(account="x402:abc").account == "x402:abc"
    with pytest.raises(CredentialRefused):
        bounds("svc_account=x402:richer", account="x402:abc")


def test_what_counts_as_narrowed() -> None:
    assert bounds("svc_max_spend=$0.01").narrowed
    assert bounds("x=1").narrowed
    assert not bounds("preimage=" + "0" * 64).narrowed  # how some clients carry the proof


@given(st.lists(st.text(max_size=40), max_size=6))
def test_no_caveat_that_a_holder_appends_gives_more(appended: list[str]) -> None:
    sold = bounds(owned=(("region", "eu"),), account="a")
    made = Token(
        token(owned=(("region", "eu"),), account="a").identifier,
        token(owned=(("region", "eu"),), account="a").caveats
        + tuple((text.partition("=")[0].strip(), text.partition("=")[2].strip()) for text in appended),
    )
    try:
        held = judge(made, "svc", {"region"})
    except CredentialRefused:
        return
    assert held.valid_until <= sold.valid_until
    assert (held.account, held.shown) == (sold.account, sold.shown)
    assert set(held.owned) >= set(sold.owned)


@pytest.mark.parametrize(
    "condition", ["services", "preimage", "svc_x", "svc_account", "", "Region", "a b", "1a", "a" * 64]
)
def test_names_that_an_owner_s_condition_cannot_have(condition: str) -> None:
    with pytest.raises(ConfigurationError):
        require_condition(condition, "svc")
    require_condition("region", "svc")


@pytest.mark.parametrize("value", ["", " eu", "eu ", "e\nu", "é", "x" * 201, None, 3])
def test_values_that_a_condition_cannot_have(value: object) -> None:
    with pytest.raises(ConfigurationError):
        require_value("region", value)
    assert require_value("region", "a = b, c") == "a = b, c"
