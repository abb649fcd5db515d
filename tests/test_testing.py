"""The kit that users test with, used as they would."""

from typing import Annotated

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import Toll, Tollbooth, get_tollbooth, priced
from fastapi_tollbooth.testing import FakeTollbooth, PayingClient, replaced, run


@pytest.fixture
def app(booth: Tollbooth) -> FastAPI:
    """An application as a user has it: installed with the real thing, one priced mount."""
    app, mounted = FastAPI(), FastAPI()
    booth.install(app)

    for each in (app, mounted):

        @each.get("/weather", dependencies=[Depends(priced("$0.01"))])
        async def weather() -> str:
            return "sunny"

        @each.post("/upload", dependencies=[Depends(priced("$0.02"))])
        async def upload(value: dict[str, str]) -> dict[str, str]:
            return value

    app.mount("/mounted", mounted)
    return app


def test_a_paying_client_is_served_and_charged(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    assert paying_client.get("/weather").json() == "sunny"
    assert paying_client.post("/upload", json={"a": "b"}).json() == {"a": "b"}
    assert paying_client.get("/mounted/weather").json() == "sunny"
    tollbooth.assert_charged("$0.01", "$0.02", "$0.01")


def test_an_unpaid_client_is_not_served(unpaid_client: TestClient, tollbooth: FakeTollbooth) -> None:
    assert unpaid_client.get("/weather").status_code == 402
    assert unpaid_client.get("/mounted/weather").status_code == 402
    tollbooth.assert_not_charged()


def test_assertions_fail_when_they_should_and_show_the_ledger(
    paying_client: PayingClient, tollbooth: FakeTollbooth
) -> None:
    with pytest.raises(AssertionError, match=r"\(empty\)"):
        tollbooth.assert_charged("$0.01")
    paying_client.get("/weather")
    with pytest.raises(AssertionError, match=r"found \$0\.01[\s\S]*post +\$0\.01  /weather"):
        tollbooth.assert_not_charged()
    with pytest.raises(AssertionError, match="expected charges"):
        tollbooth.assert_charged("$0.02")
    with pytest.raises(AssertionError, match="expected charges"):
        tollbooth.assert_charged("$0.01", "$0.01")


def test_what_is_corrected_later_is_corrected_in_the_test_s_ledger(
    app: FastAPI, paying_client: PayingClient, tollbooth: FakeTollbooth
) -> None:
    @app.get("/report")
    async def report(
        tasks: BackgroundTasks,
        toll: Annotated[Toll, Depends(priced("$0.05"))],
        engine: Annotated[Tollbooth, Depends(get_tollbooth)],
    ) -> str:
        tasks.add_task(engine.reconcile, toll, "$0.031")
        return toll.id

    toll = paying_client.get("/report").json()
    assert paying_client.get("/weather").status_code == 200
    tollbooth.assert_charged("$0.031", "$0.01")
    run(tollbooth.books.refund(toll, "$0.001"))
    tollbooth.assert_charged("$0.03", "$0.01")
    with pytest.raises(AssertionError, match=r"adjust .*\$0\.019"):
        tollbooth.assert_charged("$0.05")


def test_a_free_pass_lets_everything_through(unpaid_client: TestClient, tollbooth: FakeTollbooth) -> None:
    with tollbooth.free_pass():
        assert unpaid_client.get("/weather").status_code == 200
        assert unpaid_client.post("/upload", json={}).status_code == 200
    assert unpaid_client.get("/weather").status_code == 402
    tollbooth.assert_not_charged()


def test_faults_are_switched_on_and_off(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    with tollbooth.settlement_fails():
        assert paying_client.get("/weather").status_code == 402
    with tollbooth.node_is_silent():
        assert paying_client.get("/weather").status_code == 503
    tollbooth.assert_not_charged()
    assert paying_client.get("/weather").status_code == 200


def test_the_real_tollbooth_is_back_afterwards(app: FastAPI, booth: Tollbooth) -> None:
    fake = FakeTollbooth()
    with replaced(app, fake), TestClient(app) as client:
        assert "fakePayment" in client.get("/weather").json()
    assert get_tollbooth not in app.dependency_overrides
    assert "invoice" in TestClient(app).get("/weather").json()
    app.dependency_overrides[get_tollbooth] = own = lambda: booth
    with replaced(app, fake):
        pass
    assert app.dependency_overrides[get_tollbooth] is own
    run(fake.close())


@pytest.mark.anyio
async def test_questions_can_be_asked_inside_a_running_loop(tollbooth: FakeTollbooth) -> None:
    tollbooth.assert_not_charged()
