"""ECDSA signatures on secp256k1 with recovery id, for the development node's invoices.

Not constant time: only ever used with keys that guard nothing.
Curve: SEC 2 §2.4.1. Nonces: RFC 6979 with SHA-256. Low-s form: BIP 146.
"""

import hashlib
import hmac
from collections.abc import Iterator
from functools import cache

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)

Point = tuple[int, int]


def sign_recoverable(private_key: int, digest: bytes) -> tuple[int, int, int]:
    """The signature (r, s, recovery id) of a 32-byte digest."""
    message = int.from_bytes(digest, "big")
    for nonce in _nonces(private_key, digest):
        x, y = multiply_base(nonce)
        r = x % N
        s = pow(nonce, -1, N) * (message + r * private_key) % N
        if r and s:
            recovery = (y & 1) | (2 if x >= N else 0)
            return (r, N - s, recovery ^ 1) if s > N // 2 else (r, s, recovery)
    raise AssertionError("RFC 6979 yields nonces for ever")


def multiply_base(factor: int) -> Point:
    """The point ``factor * G``, for 0 < factor < N."""
    total: tuple[int, int, int] | None = None
    for bit, power in enumerate(_powers()):
        if factor >> bit & 1:
            total = (*power, 1) if total is None else _add_affine(total, power)
    if total is None:
        raise ValueError("the factor must not be zero")
    x, y, z = total
    inverse = pow(z, -1, P)
    return x * inverse**2 % P, y * inverse**3 % P


@cache
def _powers() -> list[Point]:
    """2^i * G for every bit of a scalar."""
    point, powers = G, []
    for _ in range(256):
        powers.append(point)
        x, y = point
        slope = 3 * x * x * pow(2 * y, -1, P) % P
        next_x = (slope * slope - 2 * x) % P
        point = (next_x, (slope * (x - next_x) - y) % P)
    return powers


def _add_affine(left: tuple[int, int, int], right: Point) -> tuple[int, int, int]:
    # Jacobian plus affine; the two are never equal or opposite here, as the powers of two only grow.
    x1, y1, z1 = left
    x2, y2 = right
    z1_squared = z1 * z1 % P
    h = (x2 * z1_squared - x1) % P
    r = (y2 * z1_squared * z1 - y1) % P
    h_squared = h * h % P
    h_cubed = h_squared * h % P
    v = x1 * h_squared % P
    x3 = (r * r - h_cubed - 2 * v) % P
    return x3, (r * (v - x3) - y1 * h_cubed) % P, z1 * h % P


def _nonces(private_key: int, digest: bytes) -> Iterator[int]:
    seed = private_key.to_bytes(32, "big") + (int.from_bytes(digest, "big") % N).to_bytes(32, "big")
    key, value = b"\x00" * 32, b"\x01" * 32
    for separator in (b"\x00", b"\x01"):
        key = hmac.digest(key, value + separator + seed, hashlib.sha256)
        value = hmac.digest(key, value, hashlib.sha256)
    while True:
        value = hmac.digest(key, value, hashlib.sha256)
        candidate = int.from_bytes(value, "big")
        if 0 < candidate < N:
            yield candidate
        key = hmac.digest(key, value + b"\x00", hashlib.sha256)
        value = hmac.digest(key, value, hashlib.sha256)
