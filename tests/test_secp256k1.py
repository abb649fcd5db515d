import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_tollbooth.lightning.secp256k1 import G, N, P, multiply_base, sign_recoverable


def test_known_multiples() -> None:
    assert multiply_base(1) == G
    x2 = 0xC6047F9441ED7D6D3045406E95C07CD85C778E4B8CEF3CA7ABAC09B95C709EE5
    y2 = 0x1AE168FEA63DC339A3C58419466CEAEEF7F632653266D0E1236431A950CFE52A
    assert multiply_base(2) == (x2, y2)
    assert multiply_base(N - 1) == (G[0], P - G[1])


def test_rfc_6979_signature_of_a_known_vector() -> None:
    # Key 1, SHA-256 of "Satoshi Nakamoto": the vector that secp256k1 libraries share.
    r, s, _ = sign_recoverable(1, hashlib.sha256(b"Satoshi Nakamoto").digest())
    assert r == 0x934B1EA10A4B3C1757E2B0C017D0B6143CE3C9A7E6A4A49860D7A6AB210EE3D8
    assert s == 0x2442CE9D2B916064108014783E923EC36B49743E2FFA1C4496F01A512AAFD9E5


@settings(max_examples=15, deadline=None)
@given(st.integers(1, N - 1), st.binary(min_size=32, max_size=32))
def test_signatures_are_low_s_and_on_the_curve(key: int, digest: bytes) -> None:
    r, s, recovery = sign_recoverable(key, digest)
    assert 0 < r < N
    assert 0 < s <= N // 2
    assert recovery in (0, 1, 2, 3)
    x, y = multiply_base(key)
    assert (y * y - x**3 - 7) % P == 0
