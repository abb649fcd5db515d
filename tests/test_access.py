import pytest

from fastapi_tollbooth.access import client_of


@pytest.mark.parametrize(
    ("client", "name"),
    [
        (("203.0.113.7", 5), "203.0.113.7"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::ffff", 5), "2001:db8:1:2::/64"),
        (("::ffff:203.0.113.7", 5), "203.0.113.7"),
        (("fe80::1%eth0", 5), "fe80::/64"),
        (("testclient", 5), "testclient"),
        (("not:an:address", 5), "not:an:address"),
        (None, "unknown"),
    ],
)
def test_a_client_is_its_socket_peer(client: tuple[str, int] | None, name: str) -> None:
    assert client_of({"client": client}) == name


def test_forwarding_headers_change_nothing() -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.1"), (b"forwarded", b"for=198.51.100.1")]
    assert client_of({"client": ("203.0.113.7", 5), "headers": headers}) == "203.0.113.7"
