"""Networks and tokens: ids, familiar names, tokens of one's own."""

import pytest

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.rails.x402.networks import BY_ID, BY_NAME, Token, find_network, network_id, read_address

TOKEN = Token("0x" + "12" * 20, 18, "Dollar", "1")


def test_the_two_names_of_a_network_mean_the_same() -> None:
    assert find_network("base") is not None
    assert find_network("base") == find_network("eip155:8453")
    assert find_network("solana").id == "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
    assert len(BY_ID) == len(BY_NAME)


def test_usdc_has_the_name_that_it_signs_under_on_each_chain() -> None:
    assert find_network("base").token.name == "USD Coin"
    assert find_network("base-sepolia").token.name == "USDC"


@pytest.mark.parametrize("network", BY_ID.values(), ids=lambda network: network.id)
def test_every_address_of_the_table_is_one(network: object) -> None:
    assert find_network(network.id) == network  # type: ignore[attr-defined]


def test_another_token_replaces_usdc_or_makes_an_unknown_chain_known() -> None:
    assert find_network("base", TOKEN).token == TOKEN
    assert find_network("base", TOKEN).name == "base"
    chain = find_network("eip155:31337", TOKEN)
    assert (chain.id, chain.name, chain.is_evm) == ("eip155:31337", None, True)


@pytest.mark.parametrize("name", ["", "Base", "eip155:", "eip155:01", "eip155:1 ", "8453", "solana:short", "btc"])
def test_what_is_no_network_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a network"):
        network_id(name)


def test_a_chain_without_a_known_token_needs_one() -> None:
    with pytest.raises(ConfigurationError, match="TOLLBOOTH_X402__ASSETS"):
        find_network("eip155:31337")


@pytest.mark.parametrize(
    ("network", "address"),
    [("base", "0x12"), ("base", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"), ("solana", "0")],
)
def test_an_address_is_of_its_network(network: str, address: str) -> None:
    with pytest.raises(ConfigurationError, match="my wallet on"):
        read_address(find_network(network), address, "my wallet")


def test_an_address_gets_its_checksum_and_a_mistyped_one_is_refused() -> None:
    base, good = find_network("base"), "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    for written in (good, good.lower(), "0x" + good[2:].upper()):
        assert read_address(base, written, "my wallet") == good
    with pytest.raises(ConfigurationError, match="mistyped"):
        read_address(base, good.replace("5aA", "5Aa"), "my wallet")
