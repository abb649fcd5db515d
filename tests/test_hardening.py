import secrets
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_tollbooth import ConfigurationError, Tollbooth, TollboothSettings
from fastapi_tollbooth.hardening import is_weak, rail_hazards, require_safe, setting_hazards
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.lightning.dev import DevNode
from fastapi_tollbooth.testing import FakeTollbooth

STRONG = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SAFE: dict[str, Any] = {
    "environment": "production",
    "secret": STRONG,
    "lightning": {"backend": "lnbits", "url": "https://lnbits.example.com", "api_key": "0" * 32},
}


def settings(**changes: Any) -> TollboothSettings:
    return TollboothSettings(_env_file=None, **{**SAFE, **changes})


@pytest.mark.parametrize(
    ("changes", "setting", "mend"),
    [
        ({"secret": None}, "TOLLBOOTH_SECRET", "token_hex"),
        ({"secret": "short"}, "TOLLBOOTH_SECRET", "token_hex"),
        ({"secret": "s" * 64}, "TOLLBOOTH_SECRET", "token_hex"),
        ({"secret": "0123456789abcdef" * 4}, "TOLLBOOTH_SECRET", "token_hex"),
        ({"secret": "please-change-me-before-production-0001"}, "TOLLBOOTH_SECRET", "token_hex"),
        ({"secret": "Todo: a real one before we go to market"}, "TOLLBOOTH_SECRET", "token_hex"),
        ({"secret": f"{STRONG},{'b' * 32}"}, "TOLLBOOTH_SECRET", "token_hex"),
        ({"database_url": "sqlite://"}, "TOLLBOOTH_DATABASE_URL", "sqlite:////"),
        ({"database_url": "sqlite:///:memory:"}, "TOLLBOOTH_DATABASE_URL", "PostgreSQL"),
        ({"lightning": {"backend": "lnbits", "url": "http://lnbits.example.com"}}, "TOLLBOOTH_LIGHTNING__URL", "https"),
        ({"lightning": {"backend": "lnbits", "url": "HTTP://8.8.8.8:5000"}}, "TOLLBOOTH_LIGHTNING__URL", "https"),
        ({"x402": {"facilitator_url": "http://facilitator.example"}}, "TOLLBOOTH_X402__FACILITATOR_URL", "https"),
        ({"x402": {"rpc_url": {"base": "http://rpc.example"}}}, "TOLLBOOTH_X402__RPC_URL", "https"),
    ],
)
def test_each_hazard_is_named_with_how_to_mend_it(changes: dict[str, Any], setting: str, mend: str) -> None:
    [hazard] = setting_hazards(settings(**changes))
    assert hazard.setting == setting
    assert mend in hazard.mend
    with pytest.raises(ConfigurationError, match=setting) as refused:
        require_safe(settings(**changes), list)
    assert STRONG not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://lnbits.example.com",
        "http://127.0.0.1:5000",
        "http://[::1]:5000",
        "http://10.1.2.3",
        "http://lnbits:5000",
        "http://node.internal",
        "http://localhost",
    ],
)
def test_private_networks_need_no_encryption(url: str) -> None:
    assert setting_hazards(settings(lightning={"backend": "lnbits", "url": url})) == []


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError) as refused:
        require_safe(settings(secret="x", database_url="sqlite://"), list)
    assert str(refused.value).count("\n- ") == 2


def test_development_may_do_all_of_this() -> None:
    require_safe(settings(environment="development", secret=None, database_url="sqlite://"), list)


def test_payments_that_are_not_real_are_refused_in_production(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'fake' are not real"):
        require_safe(settings(), lambda: [FakeTollbooth().rail])
    url = f"sqlite:///{tmp_path}/t.db"
    smuggled = Tollbooth(settings(database_url=url))
    smuggled._given_node = DevNode(KeyRing((STRONG.encode(),)), smuggled.ledger, "development")
    with pytest.raises(ConfigurationError, match="TOLLBOOTH_LIGHTNING__BACKEND"):
        smuggled.install(FastAPI())


def test_what_is_safe_starts(tmp_path: Path) -> None:
    booth = Tollbooth(settings(database_url=f"sqlite:///{tmp_path}/t.db"))
    booth.install(FastAPI())
    assert rail_hazards(booth.rails) == []


def test_random_secrets_are_strong() -> None:
    for _ in range(500):
        for secret in (secrets.token_hex(16), secrets.token_hex(32), secrets.token_urlsafe(32)):
            assert not is_weak(secret), secret
    assert not is_weak("vToDoV-VHepRnMIoV-Y9jeOCGsGvyciv8CC2gtv2lbU")  # as random as any
