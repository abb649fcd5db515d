"""Reading a request's facts off its connection, and only those that its price depends on."""

from email.message import Message
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import HTTPConnection, Request

from fastapi_tollbooth.facts import MISSING, Facts, from_pairs, grouped, parse_json
from fastapi_tollbooth.pricing import RoutePrice
from fastapi_tollbooth.routes import takes_form, takes_untyped_json

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


async def facts_of(connection: HTTPConnection, price: RoutePrice) -> Facts:
    """What this price needs to know of a request.

    The body is the one that the handler gets, parsed as FastAPI parses it: JSON by its content type, forms where the
    route declares them. Any other body is not there.
    """
    sources = price.sources
    body, is_text = await body_of(connection) if "body" in sources else (None, False)
    return Facts(
        body=body,
        query=grouped(connection.query_params.multi_items()) if "query" in sources else {},
        headers=grouped(connection.headers.items()) if "headers" in sources else {},
        params={name: str(value) for name, value in connection.path_params.items()} if "params" in sources else {},
        body_is_text=is_text,
    )


async def body_of(connection: HTTPConnection) -> tuple[Any, bool]:
    """The parsed body, None where there is none, and whether it is a form."""
    if not isinstance(connection, Request):
        return None, False
    content_type = _content_type(connection)
    if takes_form(connection.scope):
        return (_fields(await connection.form()), True) if content_type in _FORMS else (None, False)
    if not _is_json(content_type) and (content_type or not takes_untyped_json(connection.scope)):
        return None, False
    body = parse_json(await connection.body())
    return (None if body is MISSING else body), False


def _content_type(connection: HTTPConnection) -> str:
    message = Message()
    message["content-type"] = connection.headers.get("content-type", "")
    return message.get_content_type() if message["content-type"] else ""


def _is_json(content_type: str) -> bool:
    kind, _, subtype = content_type.partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def _fields(form: FormData) -> dict[str, Any]:
    # A file matches nothing, but it counts as a second value of its name.
    return from_pairs([(name, value if isinstance(value, str) else None) for name, value in form.multi_items()])
