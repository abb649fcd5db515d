"""Schemathesis over the example application: no 5xx but the documented one, and every 402 is in the document."""

import subprocess
from pathlib import Path

import httpx
import pytest

from tests.peers.conftest import PythonOf
from tests.service import running

pytestmark = pytest.mark.peer

EXAMPLES = "60"
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"
# With a credential, FastAPI's own answers to broken requests come up, and it documents few of them.
UNPAID_CHECKS = f"{CHECKS},status_code_conformance"


@pytest.mark.parametrize("paying", [False, True], ids=["without a credential", "with one"])
def test_the_example_application_keeps_what_its_document_says(
    python_of: PythonOf, tmp_path: Path, paying: bool
) -> None:
    program = python_of("schemathesis==4.32.5").parent / "schemathesis"
    settings = {
        "TOLLBOOTH_DATABASE_URL": f"sqlite:///{tmp_path}/t.db",
        "TOLLBOOTH_TOP_UP": "$5",
        "TOLLBOOTH_UNPAID_RATE_LIMIT": "off",
    }
    with running("example_app.main:app", **settings) as base:
        command = [
            program,
            "run",
            f"{base}/openapi.json",
            "--checks",
            CHECKS if paying else UNPAID_CHECKS,
            "--max-examples",
            EXAMPLES,
        ]
        if paying:
            command += ["--header", f"Authorization: {_buy(base)}"]
        command += ["--seed", "1", "--no-color", "--request-timeout", "10", "--mode", "all"]
        command += ["--exclude-path", "/health"]
        finished = subprocess.run(
            list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
        )
        assert finished.returncode == 0, finished.stdout[-8_000:] + finished.stderr[-2_000:]
        served = httpx.get(f"{base}/weather/Lisbon", headers={"Authorization": _buy(base)})
        assert served.status_code == 200


def _buy(base: str) -> str:
    offer = httpx.get(f"{base}/weather/Lisbon").json()
    paid = httpx.post(f"{base}/tollbooth/dev/pay", json={"invoice": offer["invoice"]}).json()
    return f"L402 {offer['macaroon']}:{paid['preimage']}"
