"""ECDSA signatures on secp256k1 with recovery id: making those of the development node's invoices, reading all.

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
_Jacobian = tuple[int, int, int]


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


def recover(digest: bytes, r: int, s: int, recovery: int) -> Point:
    """The public key whose signature of a 32-byte digest this is.

    Raises:
        ValueError: it is nobody's signature.
    """
    x = r + (recovery >> 1) * N
    y_squared = (x**3 + 7) % P
    y = pow(y_squared, (P + 1) // 4, P)
    if not (0 < r < N and 0 < s < N and 0 <= recovery <= 3 and x < P and y * y % P == y_squared):
        raise ValueError("not a signature")
    if y & 1 != recovery & 1:
        y = P - y
    inverse = pow(r, -1, N)
    base, key = -int.from_bytes(digest, "big") * inverse % N, s * inverse % N
    return _affine(_sum_of_products(base, G, key, (x, y)))


def multiply_base(factor: int) -> Point:
    """The point ``factor * G``, for 0 < factor < N."""
    total: _Jacobian | None = None
    for bit, power in enumerate(_powers()):
        if factor >> bit & 1:
            total = _add_affine(total, power)
    return _affine(total)


def compressed(point: Point) -> bytes:
    """A public key's 33 bytes, as nodes write their identity."""
    x, y = point
    return bytes([2 + (y & 1)]) + x.to_bytes(32, "big")


def _affine(point: _Jacobian | None) -> Point:
    if point is None:
        raise ValueError("the point at infinity is not a key")
    x, y, z = point
    inverse = pow(z, -1, P)
    return x * inverse**2 % P, y * inverse**3 % P


def _sum_of_products(first: int, one: Point, second: int, other: Point) -> _Jacobian | None:
    # Both products in one run of doublings (Shamir's trick).
    sum_of_points = _add_affine((*one, 1), other)
    both = None if sum_of_points is None else _affine(sum_of_points)
    total: _Jacobian | None = None
    for bit in reversed(range(256)):
        total = _double(total)
        match first >> bit & 1, second >> bit & 1:
            case 1, 0:
                total = _add_affine(total, one)
            case 0, 1:
                total = _add_affine(total, other)
            case 1, 1:
                total = total if both is None else _add_affine(total, both)
    return total


def _double(point: _Jacobian | None) -> _Jacobian | None:
    if point is None:
        return None
    x, y, z = point
    y_squared = y * y % P
    s = 4 * x * y_squared % P
    m = 3 * x * x % P
    double_x = (m * m - 2 * s) % P
    return double_x, (m * (s - double_x) - 8 * y_squared * y_squared) % P, 2 * y * z % P


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


def _add_affine(left: _Jacobian | None, right: Point) -> _Jacobian | None:
    x2, y2 = right
    if left is None:
        return x2, y2, 1
    x1, y1, z1 = left
    z1_squared = z1 * z1 % P
    h = (x2 * z1_squared - x1) % P
    r = (y2 * z1_squared * z1 - y1) % P
    if h == 0:
        return _double(left) if r == 0 else None
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
