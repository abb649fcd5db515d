import json

import pytest
from starlette.requests import HTTPConnection

from fastapi_tollbooth import PaymentRequired
from fastapi_tollbooth.responses import prefers_html, problem, refusal_response

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def connection(accept: str | None = None, method: str = "GET") -> HTTPConnection:
    headers = [] if accept is None else [(b"accept", accept.encode())]
    return HTTPConnection({"type": "http", "method": method, "headers": headers, "path": "/", "query_string": b""})


def refusal() -> PaymentRequired:
    return PaymentRequired(
        "payment_required",
        "This costs <b>$0.01</b>.",
        headers=[("WWW-Authenticate", 'L402 macaroon="m", invoice="i"')],
        members={"price": "$0.01", "invoice": "lnbcrt1", "credential": {"reusable": True}},
    )


@pytest.mark.parametrize(
    "accept", [None, "", "*/*", "application/json", "application/problem+json", "application/json, text/html;q=0.5"]
)
def test_machines_get_a_problem_document(accept: str | None) -> None:
    response = refusal_response(connection(accept), refusal())
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(response.body)) == {
        "type": "about:blank",
        "title": "Payment Required",
        "status": 402,
        "detail": "This costs <b>$0.01</b>.",
        "reason": "payment_required",
        "price": "$0.01",
        "invoice": "lnbcrt1",
        "credential": {"reusable": True},
    }


def test_browsers_get_a_page_that_shows_the_invoice_and_escapes_what_it_shows() -> None:
    response = refusal_response(connection(BROWSER), refusal())
    page = bytes(response.body).decode()
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "lnbcrt1" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


@pytest.mark.parametrize("accept", ["*/*", BROWSER])
def test_every_form_has_the_headers(accept: str) -> None:
    response = refusal_response(connection(accept), refusal())
    assert response.status_code == 402
    assert response.headers["www-authenticate"].startswith("L402 ")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["vary"] == "Accept, Authorization, PAYMENT-SIGNATURE"


def test_head_gets_headers_only() -> None:
    response = refusal_response(connection(method="HEAD"), refusal())
    assert response.body == b""
    assert response.status_code == 402
    assert "www-authenticate" in response.headers


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/html;q=0", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html, application/json", False),
        ("application/json;q=0.5, text/html", True),
        ("text/html;q=nonsense", False),
        (";;;,,,=", False),
        ("text/*", False),
    ],
)
def test_what_a_caller_prefers(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


def test_detail_is_text() -> None:
    assert isinstance(problem(refusal())["detail"], str)
