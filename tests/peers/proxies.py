"""Real proxies, configured as the documentation says; only ports, paths and the upstream are others."""

import os
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.peers.conftest import Command
from tests.service import free_port

HOST = "api.example.com"

# Everything that Debian's nginx would keep outside of the folder.
NGINX = """
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
    {server}
}}
"""
CACHING = """
            proxy_cache answers;
            proxy_cache_valid any 10m;
            proxy_cache_methods GET HEAD;
            proxy_cache_key $request_uri;
            add_header X-Cache $upstream_cache_status always;
"""
CADDY = """
{{
    admin off
    auto_https disable_redirects
    default_bind 127.0.0.1
}}
{site}
"""


class Certificate(NamedTuple):
    """A certificate that its owner signed, and its key, as PEM files."""

    chain: Path
    key: Path

    @property
    def trust(self) -> ssl.SSLContext:
        """What a client needs to believe it."""
        return ssl.create_default_context(cafile=str(self.chain))


def self_signed(folder: Path) -> Certificate:
    """A certificate for the host of the documentation, and for this machine."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    names = [x509.DNSName(HOST), x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "fullchain.pem", folder / "privkey.pem")
    made.chain.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def documented(page: Path, language: str) -> str:
    """The one block of this language on a page of the documentation."""
    [block] = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    return str(block)


@contextmanager
def nginx(
    program: Path, server: str, upstream: str, folder: Path, certificate: Certificate, *, caching: bool = False
) -> Iterator[str]:
    """The address of an nginx with these servers. ``caching``: it keeps all that may be kept."""
    port = free_port()
    server = _replaced(server, r"http://(127\.0\.0\.1|shop):8000", upstream)
    server = _replaced(server, r"ssl_certificate (.*);", f"ssl_certificate {certificate.chain};")
    server = _replaced(server, r"ssl_certificate_key (.*);", f"ssl_certificate_key {certificate.key};")
    # "http2 on" is younger than the nginx of some distributions.
    server = re.sub(r"listen 443 ssl;\s+http2 on;", "listen 443 ssl http2;", server)
    server = _replaced(server, "listen 443 ssl http2;", f"listen 127.0.0.1:{port} ssl http2;")
    server = re.sub("listen 80;", f"listen 127.0.0.1:{free_port()};", server)
    if caching:  # It needs buffers; the documentation has none, so that streams arrive as they are made.
        server = _replaced(server, r"proxy_buffering +off;", CACHING)
    path = folder / "nginx.conf"
    path.write_text(NGINX.format(folder=folder, server=server))
    command: Command = [program, "-c", path, "-p", folder, "-e", folder / "error.log"]
    with _running(command, folder, f"https://localhost:{port}", certificate) as base:
        yield base


@contextmanager
def caddy(program: Path, site: str, upstream: str, folder: Path, certificate: Certificate) -> Iterator[str]:
    """The address of a Caddy with this site. It would fetch a certificate from the world: it is given one."""
    port = free_port()
    site = _replaced(site, r"127\.0\.0\.1:8000", upstream.removeprefix("http://"))
    addresses = f"https://localhost:{port}, https://{HOST}:{port}"
    site = _replaced(site, rf"^{re.escape(HOST)} {{", f"{addresses} {{\n    tls {certificate.chain} {certificate.key}")
    path = folder / "Caddyfile"
    path.write_text(CADDY.format(site=site))
    command: Command = [program, "run", "--config", path, "--adapter", "caddyfile"]
    with _running(command, folder, f"https://localhost:{port}", certificate) as base:
        yield base


def _replaced(text: str, pattern: str, by: str) -> str:
    assert re.search(pattern, text, re.MULTILINE), f"the documented configuration has no {pattern}"
    return re.sub(pattern, lambda _: by, text, flags=re.MULTILINE)


@contextmanager
def _running(command: Command, folder: Path, base: str, certificate: Certificate) -> Iterator[str]:
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    log_path = folder / "proxy.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(200):
            try:
                httpx.get(f"{base}/health", verify=certificate.trust)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            pytest.fail(f"the proxy does not answer:\n{log_path.read_text()}", pytrace=False)
        yield base
    finally:
        process.terminate()
        process.wait(10)
