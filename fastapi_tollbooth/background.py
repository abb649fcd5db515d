"""Work that no response waits for."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger("fastapi_tollbooth")

DRAIN_SECONDS = 5.0


class Background:
    """Tasks that run beside the requests. What fails in them is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        """Run a coroutine to its end; ``what`` names it in the log."""
        task = asyncio.get_running_loop().create_task(work, name=what)
        # The loop itself holds its tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Wait until everything that was started on this loop has ended; what takes longer is cancelled."""
        loop = asyncio.get_running_loop()
        tasks = {task for task in self._tasks if task.get_loop() is loop}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            logger.error("%s took longer than %g s and was cancelled", task.get_name(), seconds)
            task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("%s failed", task.get_name(), exc_info=error)
