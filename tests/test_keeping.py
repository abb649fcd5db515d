from typing import Any

import pytest

from fastapi_tollbooth.keeping import MAX_BYTES, Keeping, Response

HEAD: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1"), (b"x-a", b"2")]}


def body(content: bytes, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, **more}


def test_the_head_waits_for_a_body_that_is_all_there_is() -> None:
    keeping = Keeping()
    assert keeping.is_due(HEAD)
    assert keeping.head_before(HEAD) is None
    assert keeping.is_due(body(b"all"))
    assert keeping.head_before(body(b"all")) is HEAD
    assert keeping.response == Response(200, ((b"x-a", b"1"), (b"x-a", b"2")), b"all")
    assert not keeping.is_due(body(b""))


@pytest.mark.parametrize(
    "first",
    [
        body(b"first", more_body=True),
        body(b"x" * MAX_BYTES),
        {"type": "http.response.pathsend", "path": "/tmp/x"},
    ],
)
def test_what_streams_or_is_too_large_is_let_go_unkept(first: dict[str, Any]) -> None:
    keeping = Keeping()
    keeping.head_before(HEAD)
    assert keeping.head_before(first) is HEAD
    assert keeping.response is None


def test_a_websocket_waits_for_nothing() -> None:
    assert not Keeping().is_due({"type": "websocket.accept"})
