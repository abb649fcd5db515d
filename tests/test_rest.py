"""What a client of a node takes as an address, a key and an answer."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.lightning import LightningUnavailable
from fastapi_tollbooth.lightning.rest import MAX_ANSWER, NodeClient, bytes32, moment, reading, required_key, whole
from fastapi_tollbooth.settings import LightningSettings
from tests.nodes import Book, serving


@pytest.mark.parametrize(
    "url",
    [
        "",
        "node",
        "node:8080",
        "ftp://node",
        "https://",
        "https://user:hunter2@node",
        "https://node?api_key=hunter2",
        "https://node/#hunter2",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="TOLLBOOTH_LIGHTNING__URL") as error:
        NodeClient("LND", LightningSettings(url=url))
    assert "hunter2" not in str(error.value)


@pytest.mark.anyio
async def test_a_node_may_be_behind_a_path() -> None:
    client = NodeClient("LND", LightningSettings(url="http://node:1/lightning/"))
    assert str(client._opened()._merge_url("/v1/invoices")) == "http://node:1/lightning/v1/invoices"
    await client.aclose()


@pytest.mark.anyio
async def test_answers_are_read_up_to_a_length_and_redirects_are_not_followed() -> None:
    book = Book()

    async def answer(request: Request) -> JSONResponse:
        return JSONResponse({"filler": "x" * int(request.path_params["length"])})

    with serving(Starlette(routes=[Route("/{length}", answer)]), book) as port:
        client = NodeClient("LND", LightningSettings(url=f"http://127.0.0.1:{port}"))
        assert (await client.get(f"/{MAX_ANSWER - 100}")).status == 200
        with pytest.raises(LightningUnavailable):
            await client.get(f"/{MAX_ANSWER}")
        book.fault = "redirect"
        with pytest.raises(LightningUnavailable, match="status 307"):
            await client.get("/1")
        await client.aclose()
    assert not any("elsewhere" in call for call in book.calls)


@pytest.mark.parametrize("key", [None, "", "  ", "clé", "a\nb"])
def test_a_key_that_is_none_is_refused(key: str | None) -> None:
    with pytest.raises(ConfigurationError, match="API_KEY must be a rune"):
        required_key(LightningSettings(api_key=key), "a rune")


def test_white_space_around_a_key_is_not_part_of_it() -> None:
    assert required_key(LightningSettings(api_key=" abc\n"), "a rune") == "abc"


@pytest.mark.parametrize(
    "value", [True, -1, "-1", 1.5, None, "1.5", "x", [], 21_000_000 * 10**11 + 1, "9" * 5_000, float("nan")]
)
def test_what_is_no_count_is_no_answer(value: object) -> None:
    with pytest.raises(LightningUnavailable), reading("LND"):
        whole(value)


@pytest.mark.parametrize("value", ["", "00", "zz" * 32, None, 5, "00" * 33])
def test_what_is_no_hash_is_no_answer(value: object) -> None:
    with pytest.raises(LightningUnavailable), reading("LND"):
        bytes32(value)


def test_times_are_read_and_zero_is_none() -> None:
    assert moment("0") is None
    assert moment(None) is None
    found = moment(1_700_000_000_000, per_second=1_000)
    assert found is not None
    assert found.isoformat() == "2023-11-14T22:13:20+00:00"
    with pytest.raises(LightningUnavailable), reading("LND"):
        moment(10**15)
