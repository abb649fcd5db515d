import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth.errors import AmbiguousRequest
from fastapi_tollbooth.rails.x402.identifiers import (
    EXTENSION,
    Named,
    declaration,
    key_of,
    read,
    request_digest,
    secret_of,
)
from fastapi_tollbooth.rails.x402.wire import digest

GOOD = "pay_7d5d747be160e280504c099d984bcfe0"


def carrying(info: object) -> dict[str, object]:
    return {EXTENSION: {"info": info, "schema": {}}}


@pytest.mark.parametrize("identifier", [GOOD, "a" * 16, "Z" * 128, "-_" * 8])
def test_an_identifier_is_read(identifier: str) -> None:
    assert read(carrying({"required": False, "id": identifier}), required=True) == identifier


@pytest.mark.parametrize("identifier", ["a" * 15, "a" * 129, "a" * 15 + "\n", "ä" * 16, "a b" * 8, 7, ["a" * 16], ""])
def test_what_is_none_is_refused(identifier: object) -> None:
    with pytest.raises(AmbiguousRequest) as refused:
        read(carrying({"id": identifier}), required=False)
    assert (refused.value.status, refused.value.reason) == (400, "malformed_identifier")


@pytest.mark.parametrize("extensions", [{EXTENSION: 1}, {EXTENSION: None}, carrying([]), carrying("x" * 16)])
def test_an_extension_of_another_shape_is_refused(extensions: dict[str, object]) -> None:
    with pytest.raises(AmbiguousRequest, match="16 to 128"):
        read(extensions, required=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["info", "id", "required", "x"]), inner),
)


@given(JSON, JSON, st.booleans())
def test_whatever_comes_is_an_identifier_or_none_or_refused(
    declared: object, identifier: object, required: bool
) -> None:
    for extension in (declared, {"info": declared}, {"info": {"id": identifier}}):
        with contextlib.suppress(AmbiguousRequest):
            found = read({EXTENSION: extension}, required=required)
            assert not required if found is None else 16 <= len(found) <= 128


@pytest.mark.parametrize("extensions", [None, {}, {"bazaar": 1}, {EXTENSION: {}}, carrying({"required": True})])
def test_where_there_is_none_that_is_an_error_if_one_is_required(extensions: dict[str, object] | None) -> None:
    assert read(extensions, required=False) is None
    with pytest.raises(AmbiguousRequest) as refused:
        read(extensions, required=True)
    assert refused.value.reason == "identifier_required"


def test_the_declaration_is_the_one_that_clients_know() -> None:
    declared = declaration(required=True)
    assert declared["info"] == {"required": True}
    assert declared["schema"]["properties"]["id"]["maxLength"] == 128


@given(st.text(), st.text(), st.text(), st.text())
def test_no_two_payers_or_identifiers_share_a_key(payer: str, identifier: str, other: str, another: str) -> None:
    assert (key_of(payer, identifier) == key_of(other, another)) == ((payer, identifier) == (other, another))


@given(st.lists(st.text(), min_size=1), st.binary(), st.lists(st.text(), min_size=1), st.binary())
def test_no_two_requests_share_a_digest(head: list[str], body: bytes, other: list[str], another: bytes) -> None:
    same = request_digest(tuple(head), body) == request_digest(tuple(other), another)
    assert same == ((head, body) == (other, another))


def test_what_is_in_the_database_does_not_open_answers() -> None:
    sent = b"eyJ4NDAy"
    assert secret_of(sent).hex() not in (digest(sent), hashlib.sha256(sent).hexdigest())
    assert "secret" not in repr(Named("k", "r", secret_of(sent)))
