"""A response that is to be given again: its head waits until it is known whether all of it can be kept. Pure."""

from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

MAX_BYTES = 65_536
"""How large a response may be that is kept, headers included."""


class Response(NamedTuple):
    """All of a response."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Keeping:
    """The response of one request, from its ASGI messages. ``response`` stays None where it streams or is too large."""

    __slots__ = ("_head", "response")

    def __init__(self) -> None:
        self._head: MutableMapping[str, Any] | None = None
        self.response: Response | None = None

    def is_due(self, message: Mapping[str, Any]) -> bool:
        """Whether this message is the head, which waits, or what it has waited for."""
        return self._head is not None or message["type"] == "http.response.start"

    def head_before(self, message: MutableMapping[str, Any]) -> MutableMapping[str, Any] | None:
        """The head that has waited for this message; None when this is the head."""
        if self._head is None:
            self._head = message
            return None
        head, self._head = self._head, None
        self.response = _whole(head, message)
        return head


def _whole(head: Mapping[str, Any], message: Mapping[str, Any]) -> Response | None:
    if message["type"] != "http.response.body" or message.get("more_body", False):
        return None
    headers = tuple((bytes(name), bytes(value)) for name, value in head.get("headers", ()))
    body = bytes(message.get("body", b""))
    size = len(body) + sum(len(name) + len(value) for name, value in headers)
    return Response(head["status"], headers, body) if size <= MAX_BYTES else None
