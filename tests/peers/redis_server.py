"""A real Redis server that can be stopped and started again."""

import asyncio
import subprocess
import time
from pathlib import Path

from fastapi_tollbooth.rate_limits import RateLimits
from tests.service import free_port


async def answers(url: str) -> bool:
    rates = RateLimits(url)
    try:
        return await rates.is_shared()
    finally:
        await rates.close()


class Redis:
    """A Redis server that can be stopped and started again."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command: list[str | Path] = [
            program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            folder,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        # A client that is told so by the storage: the same that the service asks.
        for _ in range(200):
            if asyncio.run(answers(self.url)):
                return
            time.sleep(0.02)
        raise TimeoutError("Redis did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
