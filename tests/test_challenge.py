"""The 402 of x402 within the room that headers have."""

from typing import Any

from fastapi_tollbooth.rails.x402.challenge import MAX_HEADER, Resource, payment_required
from fastapi_tollbooth.rails.x402.networks import BY_ID, Network, Token
from fastapi_tollbooth.rails.x402.offers import Offer
from fastapi_tollbooth.rails.x402.payments import Asked
from tests.x402_payer import PAY_TO, decode

RESOURCE = Resource("https://api.example.com/weather", "The weather.")
OFFERS = [Offer(Asked(network, 10_000, PAY_TO), 300) for network in BY_ID.values() if network.is_evm]
BAZAAR = {"bazaar": {"info": {"input": {"type": "http", "method": "GET"}}}}


def challenge(offers: list[Offer], resource: Resource = RESOURCE, **more: Any) -> tuple[Any, dict[str, Any]]:
    header, members = payment_required(resource, offers, **more)
    assert len(header) <= MAX_HEADER
    return decode(header), members


def test_the_header_says_it_all_when_there_is_room() -> None:
    document, members = challenge(OFFERS[:2], extensions=BAZAAR)
    assert document["resource"] == {"url": "https://api.example.com/weather", "description": "The weather."}
    assert [entry["network"] for entry in document["accepts"]] == ["eip155:8453", "eip155:84532"]
    assert document["extensions"] == BAZAAR
    assert members["x402"] == document | {"singleUse": True}
    assert [entry["network"] for entry in members["accepts"]] == ["base", "base-sepolia"]


def test_the_longest_extensions_go_first_then_the_description_then_the_last_offers() -> None:
    long = {"bazaar": {"info": "x" * MAX_HEADER}}
    document, members = challenge(OFFERS[:2], extensions=long)
    assert "extensions" not in document
    assert members["x402"]["extensions"] == long
    short = {"payment-identifier": {"info": {"required": True}}}
    document, members = challenge(OFFERS[:2], extensions=long | short)
    assert document["extensions"] == short
    assert members["x402"]["extensions"] == long | short
    document, _ = challenge(OFFERS[:2], Resource("https://x", "y" * MAX_HEADER))
    assert document["resource"] == {"url": "https://x"}
    document, members = challenge(OFFERS, Resource("https://x" + "y" * 1_000, ""))
    assert 1 < len(document["accepts"]) < len(OFFERS)
    assert len(members["x402"]["accepts"]) == len(OFFERS)


def test_networks_without_a_familiar_name_are_kept_from_version_1() -> None:
    local = Offer(Asked(Network("eip155:31337", None, Token("0x" + "12" * 20)), 1, PAY_TO), 300)
    assert "accepts" not in challenge([local])[1]
    assert len(challenge([local, OFFERS[0]])[1]["accepts"]) == 1
