"""Reading the OpenAPI document, and holding values to it."""

from datetime import datetime

from jsonschema import Draft202012Validator, FormatChecker

formats = FormatChecker()


@formats.checks("date-time", raises=ValueError)
def is_time(value):
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def operations(document):
    return {operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()}


def strict(schema):
    """Turn an OpenAPI 3.0 schema into a JSON schema that allows no property but those it names."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: strict(part) for name, part in schema.items() if name != "nullable"}
    if "properties" in parts:
        parts.setdefault("additionalProperties", False)
    return {"anyOf": [parts, {"type": "null"}]} if schema.get("nullable") is True else parts


def check(document, schema, value):
    """Hold a value to a schema of the document. Raises `jsonschema.ValidationError`."""
    components = {"schemas": strict(document["components"]["schemas"])}
    Draft202012Validator({**strict(schema), "components": components}, format_checker=formats).validate(value)


def problem_examples(operation):
    return [
        example["value"]
        for response in operation["responses"].values()
        for example in response.get("content", {}).get("application/problem+json", {}).get("examples", {}).values()
    ]


def invalid_examples(operation):
    return [example for example in problem_examples(operation) if example["code"] == "invalid"]


def fields(document, operation):
    """Name the fields of an operation's body."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    named = [document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]]
    named += [document["components"]["schemas"][one["$ref"].rpartition("/")[2]] for one in named[0].get("anyOf", [])]
    return {field for one in named for field in one.get("properties", {})}
