"""A real LNbits in a folder and an environment of its own, with a wallet that sells and one that pays.

LNbits' FakeWallet stands for its node: invoices are real and signed, for the main network, and are paid by wallets of
the same LNbits.
"""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

START_SECONDS = 90
PASSWORD = "peer-password"
FUNDS_SAT = 1_000_000


class Wallet(NamedTuple):
    """A wallet's keys: one that may receive, one that may also pay."""

    id: str
    invoice_key: str
    admin_key: str


class Lnbits:
    """A running LNbits that can be killed and started again."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._python, self._folder = python, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        # It looks for its own files in a folder of its name where it is started.
        package = next(python.parent.parent.glob("lib/python3*/site-packages/lnbits"))
        (folder / "lnbits").symlink_to(package, target_is_directory=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self._token = self._tell(
            "PUT",
            "/api/v1/auth/first_install",
            {"username": "superuser", "password": PASSWORD, "password_repeat": PASSWORD},
        )["access_token"]
        self.seller, self.payer = self._wallet("seller"), self._wallet("payer")
        self._tell(
            "PUT",
            "/users/api/v1/balance",
            {"id": self.payer.id, "amount": FUNDS_SAT},
            {"Authorization": f"Bearer {self._token}"},
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
            "LNBITS_DATA_FOLDER": str(self._folder / "data"),
            "LNBITS_EXTENSIONS_PATH": str(self._folder),
            "LNBITS_BACKEND_WALLET_CLASS": "FakeWallet",
            "LNBITS_ADMIN_UI": "true",
            "LNBITS_EXTENSIONS_DEACTIVATE_ALL": "true",
            # It would ask the world for extensions and prices, and wait for the answers.
            "LNBITS_EXTENSIONS_MANIFESTS": "[]",
            "LNBITS_WASM_EXTENSIONS_MANIFESTS": "[]",
            "LNBITS_EXCHANGE_RATE_PROVIDERS": "[]",
            "LNBITS_PRICE_AGGREGATOR_ENABLED": "false",
            "LNBITS_RATE_LIMIT_NO": "100000",
        }
        port = self.url.rpartition(":")[2]
        log = (self._folder / "lnbits.log").open("ab")
        self._process = subprocess.Popen(
            [self._python.parent / "lnbits", "--host", "127.0.0.1", "--port", port],
            cwd=self._folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                httpx.get(f"{self.url}/api/v1/health")
            except httpx.HTTPError:
                time.sleep(0.1)
            else:
                return
        pytest.fail(f"LNbits did not start:\n{(self._folder / 'lnbits.log').read_text()[-5_000:]}", pytrace=False)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None

    def pay(self, invoice: str) -> str:
        """Pay an invoice from the payer's wallet; the preimage."""
        headers = {"X-Api-Key": self.payer.admin_key}
        paid = self._tell("POST", "/api/v1/payments", {"out": True, "bolt11": invoice}, headers)
        return str(self.asked(paid["payment_hash"], self.payer.admin_key)["preimage"])

    def asked(self, payment_hash: str, key: str) -> Any:
        """What it says of a payment to whoever has this key."""
        answer = httpx.get(f"{self.url}/api/v1/payments/{payment_hash}", headers={"X-Api-Key": key})
        return answer.raise_for_status().json()

    def invoice(self, amount: float) -> Any:
        """An invoice of the seller's, asked for directly."""
        body = {"out": False, "amount": amount, "unit": "sat", "memo": "x", "expiry": 600}
        return self._tell("POST", "/api/v1/payments", body, {"X-Api-Key": self.seller.invoice_key})

    def balance_sat(self, wallet: Wallet) -> int:
        """What a wallet holds."""
        answer = httpx.get(f"{self.url}/api/v1/wallet", headers={"X-Api-Key": wallet.invoice_key})
        return int(answer.raise_for_status().json()["balance"]) // 1_000

    def _wallet(self, name: str) -> Wallet:
        made = self._tell("POST", "/api/v1/account", {"name": name})
        return Wallet(made["id"], made["inkey"], made["adminkey"])

    def _tell(self, method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        answer = httpx.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=30)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()
