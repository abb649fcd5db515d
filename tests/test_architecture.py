"""The shape of the package: what may import what, how large modules are, what is public."""

import ast
import sys
from pathlib import Path

import pytest

import fastapi_tollbooth

PACKAGE = Path(fastapi_tollbooth.__file__).parent
TESTS = Path(__file__).parent

# Imports point down this list only. A package's members share its line and may import each other.
ORDER = [
    {"__init__", "pytest_plugin", "cli"},
    {"ledger_commands"},
    {"terminal"},
    {"testing", "doctor.probe"},
    {"doctor.configuration", "doctor.reachable"},
    {"doctor.__init__"},
    {"dependencies"},
    {"tollbooth"},
    {"admission", "credits"},
    {"observe"},
    {"hardening"},
    {"rails.l402_routes"},
    {"quoting", "payable", "free_tier", "rate_limits", "challenges", "takers", "upkeep", "hooks"},
    {"guard"},
    {"settlement", "openapi"},
    {"lightning.dev_routes"},
    {"own_routes"},
    {"request_facts"},
    {"routes", "responses"},
    {"visit"},
    {"rails.configured"},
    {"rails.x402.rail"},
    {"rails.prepaid"},
    {"rails.l402"},
    {"rails.sales"},
    {"rails.invoice_offers", "rails.settlements"},
    {"rails.l402_credential", "rails.purchase", "rails.credit", "rails.owner_caveats"},
    {"rails.node_guard", "rails.caveats", "rails.invoice_token"},
    {"rails.x402.answers"},
    {"rails.x402.settling", "rails.x402.challenge", "rails.x402.resource", "rails.x402.bazaar"},
    {"rails.x402.history", "rails.x402.order", "rails.x402.quotes", "rails.x402.sealing"},
    {"rails.x402.accepted"},
    {"rails.x402.cdp", "rails.x402.facilitator", "rails.x402.chain", "rails.x402.offers"},
    {"rails.x402.payments"},
    {"rails.x402.svm"},
    {
        "rails.x402.transport",
        "rails.x402.wire",
        "rails.x402.identifiers",
        "rails.x402.amounts",
        "rails.x402.networks",
        "rails.x402.keccak",
        "rails.x402.__init__",
    },
    {"rails.macaroon", "rails.__init__"},
    {"price_list"},
    {"pricing", "toll"},
    {"rules", "models"},
    {"facts", "glob"},
    {"lightning.nodes"},
    {"lightning.dev", "lightning.phoenixd", "lightning.lnd", "lightning.cln", "lightning.lnbits", "lightning.nwc"},
    {"lightning.rest", "lightning.relay"},
    {"lightning.tls", "lightning.checking", "lightning.nostr"},
    {"lightning.__init__", "lightning.bolt11", "lightning.secp256k1"},
    {"ledger.sweeper", "ledger.books", "ledger.answers"},
    {"ledger.writer"},
    {"ledger.store", "ledger.pressure", "ledger.inbox"},
    {"ledger.sqlite", "ledger.postgres"},
    {"ledger.schema", "ledger.rows"},
    {"ledger.export"},
    {"ledger.audit", "ledger.reports", "ledger.archive"},
    {"ledger.lookups", "ledger.memory"},
    {"ledger.tables", "ledger.free_use", "ledger.__init__"},
    {"ledger.book"},
    {"ledger.claims"},
    {"ledger.naming"},
    {"ledger.operations"},
    {"ledger.records"},
    {"variables"},
    {"keys"},
    {"tickers"},
    {"rates"},
    {"single_flight", "moving_window"},
    {"settings"},
    {"terms"},
    {"bundles"},
    {"money"},
    {"keeping"},
    {"access", "background", "cors"},
    {"errors", "bounded"},
]
PURE = {"price_list", "pricing", "terms", "rules", "models", "facts", "glob", "toll", "money", "keeping"}
PURE |= {"ledger.book", "ledger.claims", "ledger.naming", "ledger.operations", "ledger.records"}
MAX_LINES = 350


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if "migrations" not in path.parts
    }


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(path: Path) -> set[str]:
    names = {name.removeprefix("fastapi_tollbooth.") for name in imports(path) if name.startswith("fastapi_tollbooth.")}
    known = modules()
    return {each for name in names for each in (name, f"{name}.__init__") if each in known}


def test_every_module_has_its_place() -> None:
    assert set(modules()) == set().union(*ORDER)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module: str) -> None:
    rank = {name: index for index, names in enumerate(ORDER) for name in names}
    for imported in own_imports(modules()[module]) - {module}:
        package = imported.removesuffix(".__init__")
        same_package = (
            module.startswith(f"{package}.") or imported.rpartition(".")[0] == module.rpartition(".")[0] != ""
        )
        assert rank[imported] > rank[module] or (same_package and rank[imported] == rank[module]), (
            f"{module} imports {imported}, which is above it"
        )


@pytest.mark.parametrize("module", sorted(PURE))
def test_what_must_be_provably_right_is_pure(module: str) -> None:
    outside = {name.partition(".")[0] for name in imports(modules()[module])} - set(sys.stdlib_module_names)
    assert outside == {"fastapi_tollbooth"} or not outside
    io = {"asyncio", "io", "os", "pathlib", "socket", "sqlite3", "threading", "time", "logging", "random"}
    assert not io & imports(modules()[module])
    assert own_imports(modules()[module]) <= PURE | {"errors"}


def test_the_error_tree_needs_starlette_s_exception_and_nothing_else() -> None:
    outside = {name.partition(".")[0] for name in imports(modules()["errors"])} - set(sys.stdlib_module_names)
    assert outside == {"starlette"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_modules_are_one_concept(module: str) -> None:
    assert len(modules()[module].read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("module", sorted(name for name in modules() if not name.endswith("__init__")))
def test_each_module_has_its_test_file(module: str) -> None:
    assert (TESTS / f"test_{module.rpartition('.')[2]}.py").exists()


@pytest.mark.parametrize("module", sorted(name for name in modules() if not name.endswith("__init__")))
def test_each_module_is_on_the_map(module: str) -> None:
    if not module.startswith("rails.x402."):  # which has a map of its own
        assert f"`{module.rpartition('.')[2]}.py`" in (TESTS.parent / "CONTRIBUTING.md").read_text()


def test_the_public_names_are_sorted_and_there() -> None:
    assert fastapi_tollbooth.__all__ == sorted(fastapi_tollbooth.__all__)
    for name in fastapi_tollbooth.__all__:
        assert getattr(fastapi_tollbooth, name).__doc__
    with pytest.raises(AttributeError, match="nonsense"):
        fastapi_tollbooth.nonsense  # noqa: B018


def test_public_functions_and_classes_have_docstrings() -> None:
    missing = [
        f"{module}.{node.name}"
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and node.name not in _INNER
    ]
    assert missing == []


_INNER = {
    "lifespan",
    "openapi",
    "configure",
    "settle",
    "read",
    "exchange_up",
    "add",
    "matches",
    "holds",
    "compute",
    "ask",
    "register",
    "value_for",
    "balance",
    "invoice",
    "status",
    "endpoint",
    "recorded",
}
