"""A mapping of limited size that forgets what was used least recently."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """An LRU mapping: nothing that callers can fill may grow without end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: K) -> V | None:
        """The value, which now counts as used."""
        value = self._items.get(key)
        if value is not None:
            self._items.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Store a value, forgetting the oldest when there is no room."""
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._limit:
            self._items.popitem(last=False)

    def forget(self, key: K) -> None:
        """Forget one key, if it is there."""
        self._items.pop(key, None)

    def drop(self, condition: Callable[[V], bool]) -> None:
        """Forget every value for which the condition holds."""
        for key in [key for key, value in self._items.items() if condition(value)]:
            del self._items[key]
