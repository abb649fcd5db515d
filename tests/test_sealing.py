import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.keeping import Response
from fastapi_tollbooth.rails.x402.sealing import Answer, seal, unseal

SECRET, OTHER = b"s" * 32, b"o" * 32
CHARGE = Money(10_000, Asset.USD)


@given(st.integers(100, 599), st.lists(st.tuples(st.just(b"x-any"), st.binary())), st.binary())
def test_an_answer_comes_back_as_it_was(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    answer = Answer(Response(status, tuple(headers), body), CHARGE)
    assert unseal(seal(answer, SECRET), SECRET) == answer


def test_it_is_not_readable_at_rest_and_opens_for_nobody_else() -> None:
    sealed = seal(Answer(Response(200, ((b"x-note", b"private note"),), b"bearer credential"), CHARGE), SECRET)
    assert b"bearer" not in sealed
    assert b"private" not in sealed
    assert unseal(sealed, OTHER) is None
    assert unseal(sealed[:-1] + bytes([sealed[-1] ^ 1]), SECRET) is None


@pytest.mark.parametrize("name", [b"Set-Cookie", b"set-cookie", b"Date", b"Transfer-Encoding", b"Connection"])
def test_what_is_of_one_connection_or_one_session_is_left_out(name: bytes) -> None:
    response = Response(200, ((b"content-type", b"text/plain"), (name, b"x")), b"")
    opened = unseal(seal(Answer(response, CHARGE), SECRET), SECRET)
    assert opened is not None
    assert opened.response.headers == ((b"content-type", b"text/plain"),)
