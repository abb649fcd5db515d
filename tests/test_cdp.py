"""Signed calls: the JWT that Coinbase's facilitator wants, verified with the key's public half."""

import base64
import sys
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.rails.x402.accepted import accepted
from fastapi_tollbooth.rails.x402.cdp import CdpAuthorizer
from fastapi_tollbooth.settings import X402Settings
from tests.x402_payer import PAY_TO

URL = "https://api.cdp.coinbase.com/platform/v2/x402/verify"


def ed25519() -> tuple[str, Ed25519PrivateKey]:
    key = Ed25519PrivateKey.generate()
    seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b64encode(seed + public).decode(), key


def test_an_ed25519_key_signs_one_call() -> None:
    secret, key = ed25519()
    header = CdpAuthorizer("key-1", secret).headers("POST", URL)["Authorization"]
    token = header.removeprefix("Bearer ")
    claims = jwt.decode(token, key.public_key(), algorithms=["EdDSA"])
    assert claims["uris"] == ["POST api.cdp.coinbase.com/platform/v2/x402/verify"]
    assert (claims["sub"], claims["iss"]) == ("key-1", "cdp")
    assert claims["exp"] - claims["nbf"] == 120
    assert abs(claims["nbf"] - time.time()) < 5
    protected = jwt.get_unverified_header(token)
    assert protected["kid"] == "key-1"
    assert (
        protected["nonce"]
        != jwt.get_unverified_header(CdpAuthorizer("key-1", secret).headers("POST", URL)["Authorization"][7:])["nonce"]
    )


def test_an_elliptic_curve_key_signs_too() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    token = CdpAuthorizer("key-2", pem).headers("GET", URL)["Authorization"][7:]
    assert jwt.decode(token, key.public_key(), algorithms=["ES256"])["sub"] == "key-2"


@pytest.mark.parametrize("secret", ["", "c2hvcnQ=", "not base64", "-----BEGIN EC PRIVATE KEY-----\nx"])
def test_a_bad_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CdpAuthorizer("key", secret)
    assert not secret or secret not in str(refused.value)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ConfigurationError, match=r"fastapi-tollbooth\[cdp\]"):
        CdpAuthorizer("key", ed25519()[0])


def test_the_settings_name_the_key_and_do_not_show_it() -> None:
    secret, _ = ed25519()
    settings = X402Settings(pay_to=PAY_TO, networks=["base"], cdp_api_key_id="key", cdp_api_key_secret=secret)
    assert accepted(settings)[0].network.name == "base"
    assert secret not in repr(settings)
