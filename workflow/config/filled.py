"""Sections in which null stands for a default that other keys of the section decide."""

from typing import Any

from pydantic import ConfigDict, model_validator

from workflow.config.section import Section


def _or_null(schema: dict[str, Any]) -> None:
    """Every key may be null; what editors show of it stays in its place."""
    for name, own in schema.get("properties", {}).items():
        shown = {key: own.pop(key) for key in ("default", "description", "title") if key in own}
        schema["properties"][name] = {"anyOf": [own, {"type": "null"}]} | shown


class Filled(Section):
    """A section in which a key that is null is as good as absent: config.yaml names every key and still leaves some to others."""

    model_config = ConfigDict(json_schema_extra=_or_null, allow_inf_nan=False)

    @classmethod
    def defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Defaults that depend on what is given; it holds no null and is not validated yet."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        return merged(cls.defaults(given), given)


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`under` with the values of `over` that are not null, section by section."""
    result = dict(under)
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        elif value is not None:
            result[name] = value
    return result
