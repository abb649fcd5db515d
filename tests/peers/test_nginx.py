"""A real nginx in front, with caching on: the proxy of the documentation, and what must never land in its cache.

Debian's package is enough: ``apt-get install nginx``. Without an nginx these tests are skipped; the headers that they
depend on are tested without one (A33).
"""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service import free_port, running

pytestmark = pytest.mark.peer

ROOT = Path(__file__).parents[2]
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=answers:1m;
    server {{
        listen 127.0.0.1:{port};
        large_client_header_buffers 4 16k;
        add_header X-Cache $upstream_cache_status always;
        {location}
    }}
}}
"""
CACHING = """
            proxy_cache answers;
            proxy_cache_valid any 10m;
            proxy_cache_methods GET HEAD;
            proxy_cache_key $request_uri;
"""


def documented_location(upstream: str) -> str:
    """The location of the documentation's nginx, with another upstream, and with caching of all that may be cached."""
    page = (ROOT / "docs" / "production.md").read_text()
    found = re.search(r"    location / \{.*?\n    \}\n", page, re.DOTALL)
    assert found is not None
    location = found[0].replace("http://127.0.0.1:8000", upstream)
    # A cache needs buffers; the documentation has none, so that streams arrive as they are made.
    return location.replace("proxy_buffering off;", CACHING)


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[str]:
    """The example application behind nginx: the proxy's address."""
    if not Path(NGINX).exists():
        pytest.skip("nginx is not installed")
    settings = {
        "TOLLBOOTH_DATABASE_URL": f"sqlite:///{tmp_path}/t.db",
        "TOLLBOOTH_FREE_TIER": "2",
        "TOLLBOOTH_TRUSTED_PROXIES": "1",
    }
    port = free_port()
    with running("example_app.main:app", "--no-proxy-headers", **settings) as base:
        path = tmp_path / "nginx.conf"
        path.write_text(CONFIGURATION.format(folder=tmp_path, port=port, location=documented_location(base)))
        nginx = subprocess.Popen([NGINX, "-c", str(path), "-p", str(tmp_path), "-e", str(tmp_path / "error.log")])
        try:
            for _ in range(100):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            nginx.terminate()
            nginx.wait(10)


def buy(base: str) -> dict[str, str]:
    offer = httpx.get(f"{base}/joke").json()
    paid = httpx.post(f"{base}/tollbooth/dev/pay", json={"invoice": offer["invoice"]}).json()
    return {"Authorization": f"L402 {offer['macaroon']}:{paid['preimage']}"}


def test_neither_offers_nor_paid_answers_land_in_the_cache_of_a_proxy(proxied: str) -> None:
    # The cache does work: what is public and free is served from it.
    assert [httpx.get(f"{proxied}/health").headers["x-cache"] for _ in range(2)][1] == "HIT"
    free = [httpx.get(f"{proxied}/weather/Lisbon") for _ in range(4)]
    assert [answer.status_code for answer in free] == [200, 200, 402, 402]
    assert [answer.headers["x-cache"] for answer in free] == ["MISS"] * 4
    credential = buy(proxied)
    assert httpx.get(f"{proxied}/joke", headers=credential).status_code == 200
    unpaid = httpx.get(f"{proxied}/joke")
    assert (unpaid.status_code, unpaid.headers["x-cache"]) == (402, "MISS")
    assert "lnbcrt" in unpaid.headers["www-authenticate"]


def test_the_documented_proxy_tells_who_is_calling_and_callers_cannot_lie(proxied: str) -> None:
    lies = [{"X-Forwarded-For": f"198.51.100.{number}"} for number in range(6)]
    statuses = [httpx.get(f"{proxied}/weather/Porto", headers=headers).status_code for headers in lies]
    assert statuses == [200, 200, 402, 402, 402, 402]
