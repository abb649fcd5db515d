"""No input gives a 500 or a free answer: headers, bodies, credentials and settings at random.

``HYPOTHESIS_PROFILE=long`` tries a hundred times as many. Inputs that once failed are kept as examples.
"""

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Depends
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_settings import SettingsError

from fastapi_tollbooth import ConfigurationError, FreeTier, TollboothSettings, priced
from fastapi_tollbooth.hardening import setting_hazards
from fastapi_tollbooth.terms import RateLimit
from fastapi_tollbooth.variables import variables
from tests.attacks.counters import COUNTERS, Counter, counter_of

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
TRIES = settings(
    max_examples=20_000 if LONG else 100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

names = st.sampled_from(
    [
        "Authorization",
        "PAYMENT-SIGNATURE",
        "X-PAYMENT",
        "Macaroon",
        "Grpc-Metadata-Macaroon",
        "X-Fake-Payment",
        "X-Toll-Tier",
        "X-Forwarded-For",
        "Forwarded",
        "Accept",
        "Content-Type",
        "Content-Length",
        "Idempotency-Key",
        "Host",
        "Cookie",
    ]
)
raw = st.binary(max_size=200).map(lambda value: value.translate(None, b"\r\n\x00"))
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
encoded = documents.map(lambda value: base64.b64encode(json.dumps(value).encode()))
schemes = st.sampled_from([b"L402", b"LSAT", b"Payment", b"Bearer"])
paths = st.sampled_from(["/goods", "/either", "/stream"])
media = st.sampled_from(["application/json", "application/x+json", "text/plain", "multipart/form-data", "é", ""])
credentials = st.one_of(
    raw,
    encoded,
    st.builds(
        lambda scheme, value: scheme + b" " + value, st.sampled_from([b"L402", b"LSAT", b"Payment", b"Bearer"]), raw
    ),
    st.builds(lambda value: b"L402 " + value + b":" + b"0" * 64, encoded),
)


@pytest.fixture(scope="module", params=COUNTERS)
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counter]:
    with counter_of(request.param, tmp_path_factory.mktemp("fuzz")) as counter:
        model = priced(
            match=[{"where": {"body.model": "a*", "headers.x-toll-tier": "*"}, "price": "$0.02"}], fallback="$0.05"
        )

        @counter.app.post("/model", dependencies=[Depends(model)])
        async def by_model(body: dict[str, Any]) -> str:
            counter.runs.append("model")
            return "ok"

        yield counter


@TRIES
@given(
    headers=st.lists(st.tuples(names, credentials), max_size=4), path=st.sampled_from(["/goods", "/either", "/stream"])
)
@example(headers=[("Authorization", b"L402 :" + b"0" * 64)], path="/goods")
@example(headers=[("PAYMENT-SIGNATURE", base64.b64encode(b"[" * 2_000))], path="/goods")
@example(headers=[("PAYMENT-SIGNATURE", base64.b64encode(b'{"x402Version": 2, "accepted": null}'))], path="/goods")
def test_no_header_gives_a_500_or_a_free_answer(fuzzed: Counter, headers: list[tuple[str, bytes]], path: str) -> None:
    lines = [(name.encode(), value.strip()) for name, value in headers if name != "Content-Length"]
    answer = fuzzed.client.get(path, headers=lines)
    assert answer.status_code in (400, 402, 403), (headers, answer.text)
    assert fuzzed.runs == []


@TRIES
@given(
    body=st.one_of(raw, documents.map(lambda value: json.dumps(value).encode())),
    content_type=st.sampled_from(
        ["application/json", "application/x+json", "text/plain", "multipart/form-data", "é", ""]
    ),
)
@example(body=b"[" * 50_000, content_type="application/json")
@example(body=b'{"model": 1e400}', content_type="application/json")
@example(body=b'{"model": ' + b"9" * 5_000 + b"}", content_type="application/json")
@example(body=b"\xff\xfe{\x00}\x00", content_type="application/json")
@example(body=b'{"\\ud800": "\\udfff"}', content_type="application/json")
def test_no_body_gives_a_500_or_a_free_answer(fuzzed: Counter, body: bytes, content_type: str) -> None:
    headers = {"Content-Type": content_type.encode()} if content_type else {}
    answer = fuzzed.client.post("/model", content=body, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code in (400, 402, 413, 422), (body, answer.text)
    assert fuzzed.runs == []


@TRIES
@given(
    name=st.sampled_from([each.name for each in variables()]),
    value=st.one_of(
        st.text(max_size=60), documents.map(json.dumps), st.sampled_from(["0", "-1", "$1", "off", "{}", "[]"])
    ),
)
@example(name="TOLLBOOTH_RATE_LIMIT_STORAGE", value="redis://[")
@example(name="TOLLBOOTH_LIGHTNING__URL", value="http://[::1")
@example(name="TOLLBOOTH_DATABASE_URL", value="sqlite")
def test_no_setting_gives_anything_but_a_clear_error(name: str, value: str) -> None:
    if "\x00" in value or any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        return  # no variable can hold these
    with pytest.MonkeyPatch().context() as environment:
        environment.setenv(name, value)
        try:
            read = TollboothSettings(_env_file=None)
        except (ValidationError, SettingsError):
            return
    assert all(hazard.mend for hazard in setting_hazards(read))


@TRIES
@given(st.text(max_size=40))
def test_no_text_gives_anything_but_terms_or_a_clear_error(text: str) -> None:
    for read in (RateLimit.parse, lambda value: FreeTier(credits=value)):
        with contextlib.suppress(ConfigurationError):
            read(text)
