"""The x402 settings, from variables as owners write them to networks that money comes in on."""

from typing import Any

import pytest
from pydantic import ValidationError

from fastapi_tollbooth import ConfigurationError, TollboothSettings
from fastapi_tollbooth.rails.x402.accepted import accepted
from fastapi_tollbooth.settings import X402Settings
from tests.x402_payer import PAY_TO

SOLANA = "CktRuQ2mttgRGkXJtyksdKHjUdc2C4TgDzyB98oEzy8"
LOCAL = '{"eip155:31337": {"address": "0x1212121212121212121212121212121212121212", "decimals": 18, "name": "D"}}'


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> X402Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"TOLLBOOTH_X402__{name}", value)
    return TollboothSettings(_env_file=None).x402


def test_it_is_off_by_default() -> None:
    assert TollboothSettings(_env_file=None).x402.pay_to is None


def test_one_address_for_several_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(
        monkeypatch,
        PAY_TO=PAY_TO,
        NETWORKS='["base", "eip155:31337"]',
        ASSETS=LOCAL,
        FACILITATOR_URL="http://127.0.0.1:4021",
        RPC_URL='{"eip155:31337": "http://127.0.0.1:8545"}',
    )
    base, local = accepted(settings, production=True)
    assert (base.network.name, base.pay_to, base.rpc_url) == ("base", PAY_TO, None)
    assert (local.network.token.decimals, local.network.token.name) == (18, "D")
    assert local.rpc_url == "http://127.0.0.1:8545"
    assert local.facilitator.urls == ("http://127.0.0.1:4021",)


def test_an_address_and_facilitators_per_network(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(
        monkeypatch,
        PAY_TO=f'{{"base": "{PAY_TO}", "solana": "{SOLANA}"}}',
        FACILITATOR_URL='{"base": ["https://a.example", "https://b.example"], "solana": "https://c.example"}',
    )
    base, solana = accepted(settings)
    assert base.facilitator.urls == ("https://a.example", "https://b.example")
    assert (solana.pay_to, solana.facilitator.urls) == (SOLANA, ("https://c.example",))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"networks": []}, "name the networks"),
        ({"networks": ["mars"]}, "is not a network"),
        ({"networks": ["eip155:31337"]}, "no token is known"),
        ({"networks": ["solana"]}, "PAY_TO"),
        ({"pay_to": {"solana": SOLANA}}, "no address for base"),
        ({"pay_to": {"base": PAY_TO, "eip155:8453": PAY_TO}}, "names a network twice"),
        ({"facilitator_url": {}}, "no facilitator for base"),
        ({"facilitator_url": []}, "no facilitator for base"),
        ({"facilitator_url": "ftp://x"}, "FACILITATOR_URL must be an address"),
        ({"rpc_url": "https://me:secret@x"}, "RPC_URL must be an address"),
        ({"cdp_api_key_id": "k"}, "belong together"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as refused:
        accepted(X402Settings(**({"pay_to": PAY_TO, "networks": ["base"]} | changes)))
    assert "secret@" not in str(refused.value)


def test_production_names_its_facilitator() -> None:
    with pytest.raises(ConfigurationError, match="FACILITATOR_URL is not set"):
        accepted(X402Settings(pay_to=PAY_TO, networks=["base"]), production=True)


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ValidationError):
        X402Settings(payto=PAY_TO)  # type: ignore[call-arg]
