"""Third-party L402 clients, unmodified, pay a real server: 402, invoice, answer, and the credential used again.

One payment buys three requests, as the ``server`` fixture sets it up.
"""

import shutil
from typing import Any

import httpx
import pytest

from tests.peers.conftest import CLIENTS, NodeFolderOf, PythonOf, run_driver

pytestmark = pytest.mark.peer

DRIVERS = "tests.peers.clients"
BODIES = {
    "/weather": {"forecast": "sunny"},
    "/joke": {"joke": "A macaroon walks into a bar."},
    "/echo": {"echo": {"say": "hello", "times": 2}},
}


def check(answers: list[dict[str, Any]], paths: list[str], payments: list[int], server: str) -> None:
    """Every call was served with the right body, paid as expected, and ran its handler once."""
    assert [answer["path"] for answer in answers] == paths
    assert [answer["status"] for answer in answers] == [200] * len(paths)
    assert [answer["body"] for answer in answers] == [BODIES[path] for path in paths]
    assert [answer["payments"] for answer in answers] == payments
    assert httpx.get(f"{server}/runs").json() == {path[1:]: paths.count(path) for path in set(paths)}


@pytest.mark.parametrize(
    ("module", "requirement"),
    [
        ("l402_requests_client", "l402-requests==0.9.0"),
        ("l402kit_client", "l402kit==1.10.1"),
        ("pyl402_client", "pyl402==0.1.2"),
        ("l402sdk_client", "l402sdk==0.1.0"),
    ],
)
def test_a_client_that_keeps_a_credential_per_route_pays_once_for_three_requests(
    module: str, requirement: str, server: str, python_of: PythonOf
) -> None:
    answers = run_driver([python_of(requirement), "-m", f"{DRIVERS}.{module}", server])
    paths = ["/weather"] * 4 + ["/echo"] * 2 + ["/joke"]
    check(answers, paths, [1, 1, 1, 2, 3, 3, 4], server)


def test_ln_church_agent_keeps_no_credential_and_is_served_for_each_payment(server: str, python_of: PythonOf) -> None:
    # Its invoice decoder, bolt11 2.1.0, allows any bitstring but cannot be imported with the fifth.
    python = python_of("ln-church-agent==1.18.17", "bitstring<5")
    answers = run_driver([python, "-m", f"{DRIVERS}.ln_church_agent_client", server])
    paths = ["/weather"] * 4 + ["/echo"] * 2 + ["/joke"]
    check(answers, paths, [1, 2, 3, 4, 5, 6, 7], server)


def test_alby_lightning_tools_spends_one_credential_on_several_routes(
    server: str, node_folder_of: NodeFolderOf
) -> None:
    folder = node_folder_of("@getalby/lightning-tools@9.0.1")
    # A module looks for what it imports beside itself, and nowhere else.
    driver = shutil.copy(CLIENTS / "alby_client.mjs", folder)
    answers = run_driver([shutil.which("node") or "node", driver, server])
    # The fourth request finds the credit spent. The fifth costs 21 sat, which is $0.021, and finds $0.02 left; the
    # credit that it buys is in satoshis, and pays for a route priced in dollars too.
    paths = ["/weather", "/weather", "/echo", "/weather", "/joke", "/weather"]
    check(answers, paths, [1, 1, 1, 2, 3, 3], server)
    spent = "insufficient_credit"
    assert [answer["refused"] for answer in answers] == [None, None, None, spent, spent, None]
