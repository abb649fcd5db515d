"""Requests in thousands: one call into a running application each, past all that a client does for its user."""

from typing import Any, NamedTuple

from fastapi.testclient import TestClient


class Answer(NamedTuple):
    """What the application sent."""

    status: int
    body: bytes


def get(client: TestClient, path: str, name: str, value: bytes) -> Answer:
    """The answer to a GET with one header, from the application of an entered client, in its event loop."""
    assert client.portal is not None
    answer: Answer = client.portal.call(_get, client.app, path, name.lower().encode(), value)
    return answer


async def _get(app: Any, path: str, name: bytes, value: bytes) -> Answer:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (name, value)],
        "client": ("testclient", 50_000),
        "server": ("testserver", 80),
        "state": {},
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return Answer(sent[0]["status"], b"".join(message["body"] for message in sent[1:]))
