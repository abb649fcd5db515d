"""The chains and dollar tokens that x402 payments are made on, by CAIP-2 id and by familiar name. Pure.

Version 2 of the protocol names chains by CAIP-2 (``eip155:8453``, https://chainagnostic.org/CAIPs/caip-2), version 1 by
the familiar names below. Addresses are those that the tokens' issuers publish
(https://developers.circle.com/stablecoins/usdc-contract-addresses).
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.rails.x402.keccak import checksummed

Method = Literal["eip3009", "permit2"]
"""How a payer of an EVM token authorizes: by the token's own EIP-3009, or through Uniswap's Permit2 contract."""

_EVM_ID = re.compile(r"eip155:[1-9][0-9]{0,17}")
_SVM_ID = re.compile(r"solana:[1-9A-HJ-NP-Za-km-z]{32}")
_EVM_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_SVM_ADDRESS = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}")


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is worth one dollar. ``name`` and ``version`` are its EIP-712 domain, unused on Solana."""

    address: str
    decimals: int = 6
    name: str = "USD Coin"
    version: str = "2"
    method: Method = "eip3009"


@dataclass(frozen=True, slots=True)
class Network:
    """A chain, and the token that is asked for on it. ``name`` is None for chains that version 1 has no name for."""

    id: str
    name: str | None
    token: Token

    @property
    def is_evm(self) -> bool:
        """Whether it is an Ethereum-like chain; else it is Solana."""
        return self.id.startswith("eip155:")


def _usdc(address: str, name: str = "USD Coin") -> Token:
    return Token(address, name=name)


_TABLE = (
    Network("eip155:8453", "base", _usdc("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913")),
    Network("eip155:84532", "base-sepolia", _usdc("0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC")),
    Network("eip155:1", "ethereum", _usdc("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48")),
    Network("eip155:11155111", "sepolia", _usdc("0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238", "USDC")),
    Network("eip155:137", "polygon", _usdc("0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359")),
    Network("eip155:80002", "polygon-amoy", _usdc("0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582", "USDC")),
    Network("eip155:42161", "arbitrum", _usdc("0xaf88d065e77c8cC2239327C5EDb3A432268e5831")),
    Network("eip155:421614", "arbitrum-sepolia", _usdc("0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d")),
    Network("eip155:10", "optimism", _usdc("0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85")),
    Network("eip155:43114", "avalanche", _usdc("0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E")),
    Network("eip155:43113", "avalanche-fuji", _usdc("0x5425890298aed601595a70AB815c96711a31Bc65")),
    Network("eip155:42220", "celo", _usdc("0xcebA9300f2b948710d2653dD7B07f33A8B32118C", "USDC")),
    Network("eip155:1329", "sei", _usdc("0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392", "USDC")),
    Network("eip155:143", "monad", _usdc("0x754704Bc059F8C67012fEd69BC8A327a5aafb603", "USDC")),
    Network("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "solana", _usdc("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v")),
    Network(
        "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        "solana-devnet",
        _usdc("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"),
    ),
)

BY_ID = {network.id: network for network in _TABLE}
BY_NAME = {network.name: network for network in _TABLE}


def network_id(text: str) -> str:
    """The CAIP-2 id that an id or a familiar name stands for.

    Raises:
        ConfigurationError: it is neither.
    """
    if known := BY_NAME.get(text):
        return known.id
    if _EVM_ID.fullmatch(text) or _SVM_ID.fullmatch(text):
        return text
    names = ", ".join(str(name) for name in BY_NAME)
    raise ConfigurationError(
        "unknown_network", f"{text!r} is not a network: write a CAIP-2 id such as eip155:8453, or one of {names}"
    )


def find_network(text: str, token: Token | None = None) -> Network:
    """The network of an id or familiar name, with another token than its USDC if one is given.

    Raises:
        ConfigurationError: there is no such network, no token is known there, or the token's address is not one.
    """
    id_ = network_id(text)
    known = BY_ID.get(id_)
    if token is None and known is None:
        raise ConfigurationError(
            "unknown_token",
            f"no token is known on {text}: name one in TOLLBOOTH_X402__ASSETS, such as "
            f'{{"{id_}": {{"address": "0x...", "decimals": 6, "name": "USDC", "version": "2"}}}}',
        )
    network = Network(id_, known.name if known else None, token or known.token)  # type: ignore[union-attr]
    address = read_address(network, network.token.address, "the token's address")
    return replace(network, token=replace(network.token, address=address))


def read_address(network: Network, text: str, what: str) -> str:
    """An address of the network's kind, with its checksum: some facilitators read no other form.

    Raises:
        ConfigurationError: it is not one, or its checksum says that it was mistyped.
    """
    pattern, example = (_EVM_ADDRESS, "0x and 40 hex digits") if network.is_evm else (_SVM_ADDRESS, "base58")
    if not pattern.fullmatch(text):
        raise ConfigurationError("wrong_address", f"{what} on {network.name or network.id} is {example}, not {text!r}")
    if not network.is_evm:
        return text
    address = checksummed(text)
    if text[2:] not in (address[2:], text[2:].lower(), text[2:].upper()):
        raise ConfigurationError(
            "wrong_address", f"{what}, {text}, is mistyped: upper and lower case do not fit (EIP-55); copy it again"
        )
    return address
