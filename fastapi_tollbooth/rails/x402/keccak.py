"""Keccak-256, as Ethereum uses it, and the checksum of its addresses. Pure.

Not the standard library's SHA3-256: its padding differs.
Sources: https://keccak.team/keccak_specs_summary.html; EIP-55 (https://eips.ethereum.org/EIPS/eip-55).
"""

_RATE = 136
_LANE = 2**64 - 1


def _constants() -> list[int]:
    # The linear feedback shift register of the specification, seven bits of which make each round's constant.
    register, found = 1, []
    for _ in range(24):
        constant = 0
        for bit in range(7):
            constant |= (register & 1) << ((1 << bit) - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
        found.append(constant)
    return found


_ROUNDS = _constants()


def _rotate(lane: int, by: int) -> int:
    return ((lane << by) | (lane >> (64 - by))) & _LANE


def _permute(state: list[int]) -> list[int]:
    for constant in _ROUNDS:
        columns = [state[x] ^ state[x + 5] ^ state[x + 10] ^ state[x + 15] ^ state[x + 20] for x in range(5)]
        parity = [columns[(x - 1) % 5] ^ _rotate(columns[(x + 1) % 5], 1) for x in range(5)]
        state = [lane ^ parity[index % 5] for index, lane in enumerate(state)]
        moved = state[:]
        x, y, lane = 1, 0, state[1]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            moved[x + 5 * y], lane = _rotate(lane, (step + 1) * (step + 2) // 2 % 64), state[x + 5 * y]
        state = [
            moved[i] ^ (~moved[i - i % 5 + (i + 1) % 5] & moved[i - i % 5 + (i + 2) % 5] & _LANE) for i in range(25)
        ]
        state[0] ^= constant
    return state


def keccak256(data: bytes) -> bytes:
    """The digest of some bytes."""
    padded = bytearray(data) + b"\x01" + bytes(-(len(data) + 1) % _RATE)
    padded[-1] |= 0x80
    state = [0] * 25
    for start in range(0, len(padded), _RATE):
        block = padded[start : start + _RATE]
        for lane in range(_RATE // 8):
            state[lane] ^= int.from_bytes(block[lane * 8 : lane * 8 + 8], "little")
        state = _permute(state)
    return b"".join(lane.to_bytes(8, "little") for lane in state[:4])


def checksummed(address: str) -> str:
    """An address, ``0x`` and 40 hex digits, in the upper and lower case that guards it against slips."""
    digits = address[2:].lower()
    guard = keccak256(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(g, 16) >= 8 else d for d, g in zip(digits, guard, strict=False))
