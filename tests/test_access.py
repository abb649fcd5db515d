from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from fastapi_tollbooth.access import TrustedProxies, client_of, name_of, parse_proxies

ATTACKER = "198.51.100.66"
PROXIES: TrustedProxies = parse_proxies("10.0.0.0/8, fd00::/8, 192.0.2.1")


def scope(client: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded]
    return {"type": "http", "client": (client, 5) if client else None, "headers": headers}


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("not:an:address", "not:an:address"),
        (None, "unknown"),
    ],
)
def test_a_client_is_its_socket_peer(client: str | None, name: str) -> None:
    assert client_of(scope(client)) == name


@given(st.text(st.characters(max_codepoint=255), max_size=80), st.sampled_from([b"x-forwarded-for", b"forwarded"]))
def test_forwarding_headers_of_strangers_change_nothing(line: str, name: bytes) -> None:
    stranger = {"client": ("203.0.113.7", 5), "headers": [(name, line.encode("latin-1"))]}
    assert client_of(stranger) == "203.0.113.7"
    assert client_of(stranger, PROXIES) == "203.0.113.7"


@pytest.mark.parametrize(
    ("peer", "forwarded", "name"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", [f"{ATTACKER}, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", [ATTACKER, "203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", [f"{ATTACKER}, 203.0.113.7, 10.0.0.9"], "203.0.113.7"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("fd00::1", ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["[2001:db8:1:2:3::4]:443"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["203.0.113.7:51234"], "203.0.113.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [f"{ATTACKER}, unknown"], "10.0.0.1"),
        ("10.0.0.1", [f"{ATTACKER}, "], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("192.0.2.2", [ATTACKER], "192.0.2.2"),
        (None, [ATTACKER], "unknown"),
    ],
)
def test_behind_trusted_networks_a_client_is_the_last_address_that_is_not_in_them(
    peer: str | None, forwarded: list[str], name: str
) -> None:
    assert client_of(scope(peer, *forwarded), PROXIES) == name


@pytest.mark.parametrize(
    ("hops", "forwarded", "name"),
    [
        (1, ["203.0.113.7"], "203.0.113.7"),
        (1, [f"{ATTACKER}, 203.0.113.7"], "203.0.113.7"),
        (2, [f"{ATTACKER}, 203.0.113.7, 192.0.2.9"], "203.0.113.7"),
        (2, [f"{ATTACKER}"], "192.0.2.1"),
        (1, ["rubbish"], "192.0.2.1"),
        (1, [], "192.0.2.1"),
    ],
)
def test_behind_a_number_of_proxies_a_client_is_what_the_first_of_them_saw(
    hops: int, forwarded: list[str], name: str
) -> None:
    assert client_of(scope("192.0.2.1", *forwarded), hops) == name


def test_a_proxy_on_a_unix_socket_is_counted() -> None:
    assert client_of(scope(None, "203.0.113.7"), 1) == "203.0.113.7"


@given(st.lists(st.sampled_from([ATTACKER, "10.9.9.9", "::1", "unknown", "", "1" * 300, "%", "[", "1.2.3.4:x"])))
def test_nothing_that_a_caller_adds_on_the_left_changes_who_it_is(lies: list[str]) -> None:
    forwarded = ",".join([*lies, "203.0.113.7", "10.0.0.2"])
    assert client_of(scope("10.0.0.1", forwarded), PROXIES) == "203.0.113.7"
    assert client_of(scope("10.0.0.1", forwarded), 2) == "203.0.113.7"


def test_a_very_long_chain_is_read_from_its_end_only() -> None:
    chain = ",".join([ATTACKER] * 20_000 + ["203.0.113.7"])
    assert client_of(scope("10.0.0.1", chain), PROXIES) == "203.0.113.7"


@pytest.mark.parametrize("value", ["everyone", "10.0.0.1/8", "-1", "33", "10.0.0.0/99", "1.5"])
def test_nonsense_is_not_trusted(value: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_proxies(value)


def test_none_are_trusted_by_default() -> None:
    assert parse_proxies("") == ()
    assert parse_proxies("0") == 0


@pytest.mark.anyio
async def test_an_application_may_know_its_callers_better() -> None:
    connection = HTTPConnection(scope("203.0.113.7"))

    async def later(_: HTTPConnection) -> str:
        return "bob"

    assert await name_of(connection, (), lambda _: "alice") == "user:alice"
    assert await name_of(connection, (), later) == "user:bob"
    assert await name_of(connection, (), lambda _: None) == "203.0.113.7"
    assert await name_of(connection, (), lambda _: "203.0.113.7") != await name_of(connection, (), None)
