"""The service's own tests: the pytest plugin pays, and knows what was charged."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth.testing import FakeTollbooth, PayingClient


@pytest.fixture
def app() -> FastAPI:
    from example_app.main import app

    return app


def ask(client: TestClient, path: str, model: str) -> str:
    return str(client.post(path, json={"model": model, "prompt": "Rain?"}).raise_for_status().text)


def test_weather_has_fixed_prices(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    assert paying_client.get("/health").json() == {"status": "ok"}
    assert paying_client.get("/weather/Lisbon").json()["city"] == "Lisbon"
    assert "balance" in paying_client.get("/joke").json()
    assert len(paying_client.post("/trip", json={"cities": ["Lisbon", "Rome"]}).json()) == 2
    assert paying_client.get("/story").text.startswith("It was a bright cold day")
    tollbooth.assert_charged("$0.01", "21 sat", "$0.03", "$0.02")


def test_a_table_costs_more_than_json(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    assert len(paying_client.get("/climate/Lisbon").json()) == 12
    table = paying_client.get("/climate/Lisbon", headers={"X-Toll-Tier": "csv"})
    assert table.text.startswith("month,celsius,millimetres\n1,")
    tollbooth.assert_charged("$0.002", "$0.01")


def test_the_dear_model_is_dear_and_the_cheap_one_is_free_for_a_while(
    paying_client: PayingClient, tollbooth: FakeTollbooth
) -> None:
    assert "Seen from high above: Rain?" in ask(paying_client, "/chat", "eagle-1")
    tollbooth.assert_charged("$0.075")
    for _ in range(4):
        assert "In short: Rain?" in ask(paying_client, "/chat", "sparrow-1")
    tollbooth.assert_charged("$0.075")
    ask(paying_client, "/chat", "sparrow-1")
    tollbooth.assert_charged("$0.075", "$0.005")


def test_a_stream_costs_what_was_written(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    words = ask(paying_client, "/chat/stream", "sparrow-1").split()
    tollbooth.assert_charged(f"${len(words) * 0.0002:.4f}")


def test_a_model_that_does_not_exist_costs_nothing(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    for path in ("/chat", "/chat/stream"):
        assert paying_client.post(path, json={"model": "dodo-1", "prompt": "Rain?"}).status_code == 404
    assert paying_client.post("/trip", json={"towns": []}).status_code == 422
    tollbooth.assert_not_charged()


def test_only_the_health_check_is_free(unpaid_client: TestClient, tollbooth: FakeTollbooth) -> None:
    paths = ["/health", "/weather/Lisbon", "/climate/Lisbon", "/joke", "/story"]
    assert [unpaid_client.get(path).status_code for path in paths] == [200, 402, 402, 402, 402]
    assert unpaid_client.post("/trip", json={"cities": []}).status_code == 402
    assert unpaid_client.post("/chat/stream", json={"model": "sparrow-1", "prompt": "Rain?"}).status_code == 402
    tollbooth.assert_not_charged()


def test_nothing_is_delivered_when_settlement_fails(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    with tollbooth.settlement_fails():
        assert paying_client.get("/weather/Lisbon").status_code == 402
    tollbooth.assert_not_charged()
