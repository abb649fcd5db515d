"""What event loops put before one thread, which is woken once for all that arrive together.

To be woken costs a thread far more than to take a job, and while it runs beside a busy event loop each waits for the
interpreter's lock in turn. So a loop rings when it has turned twice since the first job, by when all the requests that
it had to serve at once have come as far; a loop that has nothing else to do turns at once.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Jobs in the order in which they came.

    Args:
        attend: Is called before each ring, on the thread that rings: it makes sure that somebody takes the jobs.
    """

    def __init__(self, attend: Callable[[], None]) -> None:
        self._attend = attend
        self.jobs: deque[T] = deque()
        """What waits."""
        self._bell = threading.Event()
        self._about_to_ring: set[asyncio.AbstractEventLoop] = set()

    def put(self, job: T, loop: asyncio.AbstractEventLoop) -> None:
        """Add a job, on the thread of that running loop."""
        self.jobs.append(job)
        if loop not in self._about_to_ring:
            self.ring_soon(loop)

    def put_now(self, job: T) -> None:
        """Add a job, on any thread."""
        self.jobs.append(job)
        self._ring()

    def ring_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the thread, with a job or without, on the thread of that running loop."""
        if loop not in self._about_to_ring:
            self._about_to_ring.add(loop)
            loop.call_soon(loop.call_soon, self._ring_for, loop)

    def take(self, most: int, timeout: float | None) -> list[T]:
        """As many jobs as there are, for one thread at a time: none when it is rung without, or the time is up."""
        if not self.jobs:
            self._bell.wait(timeout)
        self._bell.clear()
        return [self.jobs.popleft() for _ in range(min(most, len(self.jobs)))]

    def _ring_for(self, loop: asyncio.AbstractEventLoop) -> None:
        self._about_to_ring.discard(loop)
        self._ring()

    def _ring(self) -> None:
        self._attend()
        self._bell.set()
