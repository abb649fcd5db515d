"""What can be seen of a service without asking anybody: its settings, its prices, its middleware, its files."""

import fnmatch
import ipaddress
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from fastapi.middleware.cors import CORSMiddleware

from fastapi_tollbooth.access import Network
from fastapi_tollbooth.cors import READ
from fastapi_tollbooth.doctor import Finding, Patient, ok, problem, warning
from fastapi_tollbooth.hardening import rail_hazards, setting_hazards
from fastapi_tollbooth.payable import MEND, left_out
from fastapi_tollbooth.pricing import RoutePrice
from fastapi_tollbooth.routes import priced_routes, with_mounted
from fastapi_tollbooth.settings import SECRETS
from fastapi_tollbooth.variables import unknown

_WIDEST = {4: 8, 6: 16}


def look(patient: Patient) -> Iterator[Finding]:
    """Everything that is found; at least one finding for each check."""
    for check in CHECKS:
        yield from check(patient)


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def environment(patient: Patient) -> Iterator[Finding]:
    """Runs as production, where unsafe settings are refused."""
    if patient.in_production:
        yield ok("environment", "production: what is unsafe does not start")
    else:
        yield warning("environment", "this is development", "set TOLLBOOTH_ENVIRONMENT=production before going live")


def mode(patient: Patient) -> Iterator[Finding]:
    """Takes money."""
    if patient.tollbooth.observes:
        detail = "TOLLBOOTH_MODE=observe: everything is served and nothing is charged"
        yield Finding("mode", patient.grave, detail, "set TOLLBOOTH_MODE=enforce to be paid")
    else:
        yield ok("mode", "unpaid requests are refused")


def hazards(patient: Patient) -> Iterator[Finding]:
    """Nothing of a developer's machine: node, facilitator, secret, ledger in memory, plain http."""
    found = [*setting_hazards(patient.tollbooth.settings), *rail_hazards(patient.tollbooth.rails)]
    for hazard in found:
        yield Finding("hazards", patient.grave, f"{hazard.setting}: {hazard.what}", hazard.mend)
    if not found:
        yield ok("hazards", "no development node, fake facilitator, weak secret, ledger in memory or plain http")


def spelling(patient: Patient) -> Iterator[Finding]:
    """Every TOLLBOOTH_ variable is a setting."""
    found = unknown([*patient.environment, *dotenv_values(patient.folder / ".env")])
    for each in found:
        mend = f"rename it to {each.nearest}" if each.nearest else "remove it: `fastapi-tollbooth settings` lists all"
        yield (problem if each.nearest else warning)("spelling", str(each), mend)
    if not found:
        yield ok("spelling", "every TOLLBOOTH_ variable is a setting")


def secrets(patient: Patient) -> Iterator[Finding]:
    """Secrets come from the environment, ``.env`` or files, and are not written in the code."""
    settings = patient.tollbooth.settings
    held = {
        "TOLLBOOTH_SECRET": settings.secret,
        "TOLLBOOTH_LIGHTNING__API_KEY": settings.lightning.api_key,
        "TOLLBOOTH_X402__CDP_API_KEY_SECRET": settings.x402.cdp_api_key_secret,
    }
    given = {name.upper() for name in (*patient.environment, *dotenv_values(patient.folder / ".env"))}
    if SECRETS.is_dir():
        given |= {path.name.upper() for path in SECRETS.iterdir()}
    written = [name for name, value in held.items() if value is not None and name not in given]
    for name in written:
        detail = f"{name} is neither in the environment, nor in .env, nor a file of {SECRETS}"
        yield warning("secrets", detail, "keep it out of the code: whoever reads the code could spend by it")
    if not written:
        yield ok("secrets", "none is written in the code")


def env_file(patient: Patient) -> Iterator[Finding]:
    """Secrets come from the environment, and ``.env`` is private."""
    path = patient.folder / ".env"
    if not path.exists():
        yield ok("env-file", "there is no .env file")
        return
    readable = stat.S_IMODE(path.stat().st_mode) & 0o077
    if readable:
        yield problem("env-file", ".env can be read by other users of this machine", f"chmod 600 {path}")
    ignored = _is_ignored(path)
    if ignored is False:
        yield problem("env-file", ".env is not ignored by git", "add a line with .env to .gitignore")
    if not readable and ignored is not False:
        yield ok("env-file", ".env is private, and " + ("ignored by git" if ignored else "not in a git repository"))


# ── who is calling ────────────────────────────────────────────────────────────────────────────────────────────────────


def bind(patient: Patient) -> Iterator[Finding]:
    """Only the proxy, which terminates TLS, can reach the server."""
    host = patient.host or patient.environment.get("UVICORN_HOST") or patient.environment.get("HOST")
    if host is None:
        yield warning(
            "bind",
            "nothing says which address the server listens on",
            "listen on 127.0.0.1 behind a proxy that terminates TLS, and tell doctor with --host 127.0.0.1",
        )
    elif _is_loopback(host):
        yield ok("bind", f"the server listens on {host}: only this machine reaches it")
    else:
        yield problem(
            "bind",
            f"the server listens on {host}: whoever reaches it there goes around the proxy, without TLS",
            "listen on 127.0.0.1, or on a network that only the proxy is in",
        )


def proxies(patient: Patient) -> Iterator[Finding]:
    """Callers are known by their own addresses: proxy headers are believed, those of the proxy only."""
    trusted, found = patient.tollbooth.settings.trusted_proxies, []
    by_server = patient.environment.get("FORWARDED_ALLOW_IPS", "")
    mend = "name the proxy's own address or network"
    if any(_is_too_wide(entry.strip()) for entry in by_server.split(",")):
        found.append(problem("proxies", f"FORWARDED_ALLOW_IPS={by_server} lets every caller choose an address", mend))
    if not isinstance(trusted, int) and any(_is_too_wide(network) for network in trusted):
        found.append(problem("proxies", "TOLLBOOTH_TRUSTED_PROXIES is so wide that callers are in it", mend))
    if by_server and trusted:
        detail = "both the server and the tollbooth replace the caller's address: the second believes callers"
        found.append(problem("proxies", detail, "unset FORWARDED_ALLOW_IPS or TOLLBOOTH_TRUSTED_PROXIES"))
    if not by_server and not trusted:
        found.append(
            warning(
                "proxies",
                "no proxy is trusted but one on this machine, which uvicorn believes by default: behind any other all "
                "callers have the proxy's address",
                "set FORWARDED_ALLOW_IPS, or TOLLBOOTH_TRUSTED_PROXIES, to the proxy's address",
            )
        )
    yield from found or [ok("proxies", "the headers of the proxy are believed, and of nobody else")]


# ── prices and limits ─────────────────────────────────────────────────────────────────────────────────────────────────


def limits(patient: Patient) -> Iterator[Finding]:
    """What is free, and what costs the node an invoice, has a rate limit."""
    settings, found = patient.tollbooth.settings, list[Finding]()
    default = patient.tollbooth.admission.free_uses.default
    if settings.free_rate_limit is None:
        for route, price in _prices(patient):
            free_tier = default if price.terms.free_tier is None else price.terms.free_tier
            is_free = free_tier or any(amount.is_zero for amount in price.amounts())
            if is_free and price.terms.rate_limit is None:
                mend = 'set TOLLBOOTH_FREE_RATE_LIMIT, or priced(..., rate_limit="10/second")'
                found.append(problem("limits", f"{route} is free and has no rate limit, its only protection", mend))
    if settings.unpaid_rate_limit is None:
        mend = "set TOLLBOOTH_UNPAID_RATE_LIMIT, such as 300/minute, which production has by default"
        found.append(Finding("limits", patient.grave, "anybody may ask for any number of offers", mend))
    by_server = patient.environment.get("WEB_CONCURRENCY", "")
    workers = patient.workers or (int(by_server) if by_server.isdecimal() else 1)
    if workers > 1 and settings.rate_limit_storage.get_secret_value() == "memory":
        mend = "set TOLLBOOTH_RATE_LIMIT_STORAGE to a Redis"
        found.append(warning("limits", f"{workers} workers count for themselves: limits are that much higher", mend))
    yield from found or [ok("limits", "free and unpaid requests have rate limits")]


def fallbacks(patient: Patient) -> Iterator[Finding]:
    """Every route with rules or models has a price for the rest, and not less than its dearest."""
    found = []
    for route, price in _prices(patient):
        if not price.rules and price.models is None:
            continue
        rest = price.static if price.static is not None else price.fallback
        if rest is None:
            detail = f"{route} has rules or models, and no price of its own for what they leave out"
            found.append(problem("fallbacks", detail, "give priced(...) a fallback"))
            continue
        named = [rule.price for rule in price.rules] + list((price.models or {}).values())
        dearer = [amount for amount in named if amount.asset is rest.asset and rest < amount]
        if dearer:
            dearest = max(dearer, key=lambda amount: amount.amount)
            detail = f"{route}: what no rule knows costs {rest}, and the dearest rule {dearest}"
            found.append(problem("fallbacks", detail, f"raise the fallback to {dearest}"))
    yield from found or [ok("fallbacks", "what no rule knows costs as much as the dearest that is known")]


def caps(patient: Patient) -> Iterator[Finding]:
    """Prices of the owner's functions have an upper limit."""
    found = [
        warning("caps", f"{route}: the pricing function may ask any price", 'give priced(...) max_price="$1"')
        for route, price in _prices(patient)
        if price.function is not None and price.max_price is None
    ]
    yield from found or [ok("caps", "every pricing function has a max_price")]


def amounts(patient: Patient) -> Iterator[Finding]:
    """Every way to pay can take every declared price."""
    rails = patient.tollbooth.rails
    found = [
        warning("amounts", f"{route.methods} {route.path}: {each}", MEND)
        for route in patient.tollbooth.prices()
        for each in left_out(route, rails)
    ]
    yield from found or [ok("amounts", "every way to pay can take every declared price")]


# ── browsers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def cors(patient: Patient) -> Iterator[Finding]:
    """Only the owner's frontends may pay from browsers, and they can read the offers."""
    found: list[Finding] = []
    layers: list[Any] = list(patient.app.user_middleware)
    installed = [each.kwargs for each in layers if each.cls is CORSMiddleware]
    mend = "use fastapi_tollbooth.cors.allow_payers(app, [your frontend])"
    for options in installed:
        if _is_open(options):
            found.append(problem("cors", "pages of every origin may call", mend))
        exposed = {name.lower() for name in options.get("expose_headers", ())}
        missing = [name for name in READ if name.lower() not in exposed]
        if "*" not in exposed and "WWW-Authenticate" in missing:
            found.append(problem("cors", f"browsers hide {', '.join(missing)} from the payer", mend))
        allowed = {name.lower() for name in options.get("allow_headers", ())}
        if not {"*", "authorization"} & allowed:
            found.append(problem("cors", "browsers may not send Authorization, which carries the credential", mend))
    if found:
        yield from found
    else:
        yield ok("cors", "your frontends only" if installed else "no page of another origin may call")


CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    environment,
    mode,
    hazards,
    spelling,
    secrets,
    env_file,
    bind,
    proxies,
    limits,
    fallbacks,
    caps,
    amounts,
    cors,
)


def _prices(patient: Patient) -> Iterator[tuple[str, RoutePrice]]:
    for prefix, app in with_mounted(patient.app):
        for context, gate in priced_routes(app):
            methods = ",".join(sorted(getattr(context, "methods", None) or ("WEBSOCKET",)))
            yield f"{methods} {prefix}{context.path_format}", gate.price


def _is_open(options: dict[str, Any]) -> bool:
    pattern = options.get("allow_origin_regex")
    return "*" in options.get("allow_origins", ()) or pattern in (".*", "^.*$", "https?://.*", "https://.*")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.startswith(("/", "unix:")):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_too_wide(entry: str | Network) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False) if isinstance(entry, str) else entry
    except ValueError:
        return False
    return network.prefixlen < _WIDEST[network.version]


def _is_ignored(path: Path) -> bool | None:
    """Whether git ignores a file in its repository, by the plain lines of .gitignore; None outside of one."""
    for folder in path.resolve().parents:
        lines = folder / ".gitignore"
        if lines.exists():
            patterns = [line.strip().strip("/") for line in lines.read_text().splitlines()]
            if any(pattern and fnmatch.fnmatch(path.name, pattern) for pattern in patterns):
                return True
        if (folder / ".git").exists():
            return False
    return None
