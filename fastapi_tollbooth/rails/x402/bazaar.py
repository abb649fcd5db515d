"""What facilitators' directories are told of a route: method, input and output, from its own OpenAPI document.

Source: specs/extensions/bazaar.md of the x402 repository.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi_tollbooth.toll import Quote

logger = logging.getLogger("fastapi_tollbooth.x402")

MAX_DEPTH = 6
_WITH_BODY = ("POST", "PUT", "PATCH")
_PARAMETER = re.compile(r"\{([^{}:]+)(?::[^{}]*)?\}")
_BODY_TYPES = {
    "application/json": "json",
    "multipart/form-data": "form-data",
    "application/x-www-form-urlencoded": "form-data",
    "text/plain": "text",
}

Schema = dict[str, Any]


def declaration(
    document: Mapping[str, Any], path: str, method: str, path_params: Mapping[str, Any], mounted_at: str = ""
) -> dict[str, Any] | None:
    """The ``bazaar`` extension for one operation of an OpenAPI document; None when the document does not have it.

    ``mounted_at`` is where the document's application is mounted in another.
    """
    operation = document.get("paths", {}).get(path, {}).get(method.lower())
    if not isinstance(operation, dict):
        return None
    parameters = [_resolved(document, parameter) for parameter in operation.get("parameters", ())]
    given: dict[str, Any] = {"type": "http", "method": method}
    shapes: dict[str, Schema] = {"type": {"const": "http"}, "method": {"const": method}}
    query = {p["name"]: p for p in parameters if p.get("in") == "query"}
    if query:
        shapes["queryParams"] = _object(document, query)
        given["queryParams"] = {name: _example(shapes["queryParams"]["properties"][name]) for name in query}
    if path_params:
        given["pathParams"] = {name: str(value) for name, value in path_params.items()}
        shapes["pathParams"] = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in path_params},
            "required": list(path_params),
        }
    if method in _WITH_BODY:
        body_type, shape = _body(document, operation)
        given |= {"bodyType": body_type, "body": _example(shape)}
        shapes |= {"bodyType": {"const": body_type}, "body": shape}
    info: dict[str, Any] = {"input": given}
    told: dict[str, Schema] = {
        "input": {"type": "object", "properties": shapes, "required": list(given), "additionalProperties": False}
    }
    output = _output(document, operation)
    if output is not None:
        info["output"] = {"type": "json", "example": _example(output)}
        told["output"] = {"type": "object", "properties": {"type": {"type": "string"}, "example": output}}
    declared: dict[str, Any] = {
        "info": info,
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": told,
            "required": ["input"],
        },
    }
    if path_params:
        declared["routeTemplate"] = _PARAMETER.sub(r":\1", mounted_at + path)
    return declared


def _object(document: Mapping[str, Any], parameters: Mapping[str, Any]) -> Schema:
    properties = {name: _inlined(document, parameter.get("schema", {})) for name, parameter in parameters.items()}
    required = [name for name, parameter in parameters.items() if parameter.get("required")]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _body(document: Mapping[str, Any], operation: Mapping[str, Any]) -> tuple[str, Schema]:
    content = _resolved(document, operation.get("requestBody", {})).get("content", {})
    for media_type, described in content.items():
        if media_type in _BODY_TYPES:
            return _BODY_TYPES[media_type], _inlined(document, described.get("schema", {}))
    return "json", {"type": "object"}


def _output(document: Mapping[str, Any], operation: Mapping[str, Any]) -> Schema | None:
    for status, response in operation.get("responses", {}).items():
        if str(status).startswith("2"):
            content = _resolved(document, response).get("content", {})
            shape = content.get("application/json", {}).get("schema")
            return (_inlined(document, shape) or None) if shape else None
    return None


def _resolved(document: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """What a reference refers to; anything else as it is."""
    reference = value.get("$ref") if isinstance(value, dict) else None
    if isinstance(reference, str):
        value = document
        for step in reference.removeprefix("#/").split("/"):
            value = value.get(step, {}) if isinstance(value, Mapping) else {}
    return value if isinstance(value, dict) else {}


def _inlined(document: Mapping[str, Any], schema: Any, depth: int = 0) -> Schema:
    """A schema without references, cut off where it becomes deep or refers to itself; titles are left out."""
    if depth > MAX_DEPTH:
        return {}
    found: Schema = {}
    for keyword, value in _resolved(document, schema).items():
        if keyword == "properties" and isinstance(value, dict):
            found[keyword] = {name: _inlined(document, inner, depth + 1) for name, inner in value.items()}
        elif keyword in ("anyOf", "oneOf", "allOf") and isinstance(value, list):
            found[keyword] = [_inlined(document, inner, depth + 1) for inner in value]
        elif keyword in ("items", "additionalProperties") and isinstance(value, dict):
            found[keyword] = _inlined(document, value, depth + 1)
        elif keyword != "title":
            found[keyword] = value
    return found


def _example(schema: Schema) -> Any:
    """Something that a schema allows, as telling as the schema is."""
    stated = [schema[keyword] for keyword in ("example", "default", "const") if schema.get(keyword) is not None]
    lists = ("examples", "enum", "anyOf", "oneOf", "allOf")
    chosen = [(keyword, schema[keyword][0]) for keyword in lists if isinstance(schema.get(keyword), list | tuple)]
    if stated:
        return stated[0]
    if chosen:
        keyword, first = chosen[0]
        return _example(first) if keyword.endswith("Of") else first
    return _example_of_type(schema)


def _example_of_type(schema: Schema) -> Any:
    required = schema.get("required", ())
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    items = [_example(schema.get("items", {}))] if schema.get("minItems") else []
    properties = {name: _example(inner) for name, inner in schema.get("properties", {}).items() if name in required}
    text = "string".ljust(min(schema.get("minLength", 0), 64), "x")
    examples = {"array": items, "integer": least, "number": least, "boolean": True, "string": text}
    return examples.get(str(schema.get("type")), properties)


def described(quote: Quote) -> dict[str, Any] | None:
    """What directories are told of the route that a quote is for; None where its application does not describe it."""
    scope = quote.connection.scope
    document = getattr(scope.get("app"), "openapi", None)
    if document is None or scope["type"] != "http":
        return None
    mounted_at = scope.get("root_path", "").removeprefix(scope.get("app_root_path", ""))
    path = quote.route.removeprefix(mounted_at)
    try:
        return declaration(document(), path, scope["method"], quote.connection.path_params, mounted_at)
    except Exception:
        # The owner's document is made by the owner's code, and a 402 does not depend on it.
        logger.exception("%s cannot be described to directories", quote.route)
        return None
