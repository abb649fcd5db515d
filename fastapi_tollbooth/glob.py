"""The glob of match rules: ``*`` matches any run of characters, newlines included, and nothing else is special.

Pure. Anchored at both ends, case-sensitive, compared code point by code point. Linear in the length of the value
whatever the pattern: each literal part is searched for once, left to right, and never again.
"""

from collections.abc import Callable


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """A test for whether a whole value matches ``pattern``."""
    first, *parts = pattern.split("*")
    if not parts:
        return pattern.__eq__
    *middle, last = parts
    needles = [needle for needle in middle if needle]
    shortest = len(first) + len(last)

    def matches(value: str) -> bool:
        if len(value) < shortest or not value.startswith(first) or not value.endswith(last):
            return False
        position, end = len(first), len(value) - len(last)
        for needle in needles:
            position = value.find(needle, position, end)
            if position < 0:
                return False
            position += len(needle)
        return True

    return matches
