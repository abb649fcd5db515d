import pickle

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import ConfigurationError, PaymentRequired, Refusal
from fastapi_tollbooth.errors import (
    AmbiguousRequest,
    BodyTooLarge,
    Forbidden,
    HookFailed,
    PricingFailed,
    Rejected,
    TooManyRequests,
    Unavailable,
)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (AmbiguousRequest, 400),
        (PaymentRequired, 402),
        (Forbidden, 403),
        (BodyTooLarge, 413),
        (TooManyRequests, 429),
        (PricingFailed, 500),
        (HookFailed, 500),
        (Unavailable, 503),
    ],
)
def test_each_refusal_has_its_status_and_is_never_cached(kind: type[Refusal], status: int) -> None:
    refusal = kind("some_reason", "Do this.")
    assert refusal.status_code == refusal.status == status
    assert (refusal.reason, refusal.detail) == ("some_reason", "Do this.")
    assert (b"cache-control", b"no-store") in refusal.raw_headers


@pytest.mark.parametrize("kind", [TooManyRequests, Unavailable])
def test_later_means_a_time(kind: type[TooManyRequests] | type[Unavailable]) -> None:
    assert (b"retry-after", b"7") in kind("reason", "Later.", retry_after=7).raw_headers


def test_an_application_without_our_handler_still_answers_with_every_header_line() -> None:
    app = FastAPI()

    @app.get("/")
    async def refuse() -> None:
        raise PaymentRequired("r", "d", headers=[("WWW-Authenticate", "A x=1"), ("WWW-Authenticate", "B y=2")])

    response = TestClient(app).get("/")
    assert response.status_code == 402
    assert response.headers.get_list("www-authenticate") == ["A x=1", "B y=2"]


def test_a_hook_s_refusal_has_the_status_that_the_hook_says() -> None:
    refusal = Rejected(451, "blocked", "Not here.")
    assert (refusal.status, refusal.status_code, refusal.reason) == (451, 451, "blocked")


def test_a_configuration_error_says_what_to_do_and_where_more_is_said() -> None:
    error = ConfigurationError("not_an_amount", 'write it like "$0.01"')
    assert (error.reason, error.detail) == ("not_an_amount", 'write it like "$0.01"')
    said, where = str(error).splitlines()
    assert said == error.detail
    assert where.endswith("/docs/configuration-errors.md#not_an_amount")
    again = pickle.loads(pickle.dumps(error))  # as between worker processes
    assert (again.reason, str(again)) == (error.reason, str(error))
