import pytest

from oxyy_proxy.simulator.schema import example


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "enum": ["red", "blue"]}, "red"),
        ({"const": 7}, 7),
        ({"type": ["null", "integer"], "minimum": 3}, 3),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, 1),
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}, {"a": "text"}),
        ({"properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}}, {"a": 1, "b": True}),
        ({"$defs": {"S": {"type": "integer"}}, "properties": {"s": {"$ref": "#/$defs/S"}}}, {"s": 1}),
        ({"type": "object"}, {}),
        (True, None),
    ],
)
def test_a_value_fits_its_schema(schema, value):
    assert example(schema) == value


def test_a_schema_that_requires_itself_ends():
    loop = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert "next" in example(loop)


def test_absurd_lengths_are_not_filled():
    assert len(example({"type": "array", "minItems": 10**12})) == 100
