"""A value that fits a JSON schema, for tool arguments and structured output."""

from __future__ import annotations

import math
from collections.abc import Mapping

MOST = 100
"""Items of an array and letters of a text, whatever the schema demands."""

DEEPEST = 16
"""Levels that are filled in; a schema that requires itself has no finite value anyway."""

Schema = Mapping[str, object]


def example(schema: object, root: object = None, depth: int = 0) -> object:
    """The first value that comes to mind: constants, first alternatives, required properties, shortest arrays."""
    if not isinstance(schema, dict) or depth > DEEPEST:
        return None
    root = schema if root is None else root
    if "const" in schema:
        return schema["const"]
    for listed in ("enum", "examples"):
        if isinstance(values := schema.get(listed), list) and values:
            return values[0]
    if "$ref" in schema:
        return example(_resolve(schema["$ref"], root), root, depth + 1)
    for alternatives in ("anyOf", "oneOf", "allOf"):
        if isinstance(choices := schema.get(alternatives), list) and choices:
            return example(choices[0], root, depth + 1)
    return _of_type(_type(schema), schema, root, depth)


def _of_type(kind: str, schema: Schema, root: object, depth: int) -> object:
    match kind:
        case "object":
            return _object(schema, root, depth)
        case "array":
            length = min(_int(schema, "minItems", 1), MOST)
            return [example(schema.get("items"), root, depth + 1) for _ in range(length)]
        case "string":
            return "text".ljust(min(_int(schema, "minLength", 0), MOST), "t")
        case "integer" | "number":
            return _int(schema, "minimum", 1)
        case "boolean":
            return True
        case _:
            return None


def _object(schema: Schema, root: object, depth: int) -> dict[str, object]:
    """The required properties; all of them where none is required."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required")
    names = required if isinstance(required, list) and required else list(properties)
    return {str(name): example(properties.get(name, {}), root, depth + 1) for name in names}


def _type(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        return "object" if "properties" in schema else "string"
    return str(kind)


def _int(schema: Schema, key: str, default: int) -> int:
    value = schema.get(key)
    return math.ceil(value) if isinstance(value, int | float) and math.isfinite(value) else default


def _resolve(ref: object, root: object) -> object:
    """The schema that a local reference such as `#/$defs/Step` points to; None for any other."""
    node: object = root
    for step in str(ref).removeprefix("#").strip("/").split("/"):
        if step:
            node = node.get(step) if isinstance(node, dict) else None
    return node
