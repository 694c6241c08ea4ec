"""The base of every configuration section and the user-facing form of its errors."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """Bad configuration or input, told in three parts: what must hold, what was found, what to do."""


class Section(BaseModel):
    """One section of config.yaml: unknown keys are refused, the string under a field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, coerce_numbers_to_str=True)

    def params(self) -> dict[str, Any]:
        """The section as plain, recursively sorted data: what a rule passes as its `cfg` param."""
        return sorted_plain(self.model_dump(mode="json"))


def sorted_plain(value: Any) -> Any:
    """Dicts with sorted keys at every level, tuples as lists: Snakemake compares params by their repr."""
    match value:
        case dict():
            return {str(key): sorted_plain(value[key]) for key in sorted(value, key=str)}
        case list() | tuple():
            return [sorted_plain(entry) for entry in value]
    return value


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that `name` is most likely a misspelling of, or None."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    alike = {other: difflib.SequenceMatcher(None, other, name).ratio() for other in close}
    return max(close, key=lambda other: (alike[other], other.startswith(name[:2])), default=None)


def explain(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """Every problem of a rejected configuration, a line each, with the nearest known name for unknown keys."""
    return ConfigError("\n".join(_line(problem, model) for problem in error.errors()))


def _line(problem: Any, model: type[BaseModel]) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        guess = _meant(model, problem["loc"], known)
        hint = f"Did you mean {guess}?" if guess else "Remove it."
        return f"Every key of the configuration must be known; found {where}. {hint} Known here: {', '.join(known)}."
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"{where} must be set; it is missing. Add it to config.yaml or give it with --config set='{where}=…'."
    wanted = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where} is not valid: {wanted}; got {problem['input']!r}. Correct it in config.yaml or on the command line."


def _meant(model: type[BaseModel], path: tuple[Any, ...], known: list[str]) -> str | None:
    """The key that an unknown one most likely stands for: its name elsewhere in the same section of config.yaml, or one like it."""
    *parents, name = map(str, path)
    section = model.model_fields.get(parents[0]) if parents else None
    for elsewhere in _paths(section.annotation) if section else ():
        if elsewhere[-1] == name:
            return ".".join((parents[0], *elsewhere))
    guess = nearest(name, known)
    return ".".join((*parents, guess)) if guess else None


def _paths(annotation: Any) -> Iterator[tuple[str, ...]]:
    """Paths of the keys of a section, those nearest to it first."""
    fields = {name: field for model in _models_in(annotation)[:1] for name, field in model.model_fields.items()}
    yield from ((name,) for name in fields)
    for name, field in fields.items():
        if isinstance(field.annotation, type):
            yield from ((name, *below) for below in _paths(field.annotation))


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the section at `path`, looking through dicts, lists and optional types."""
    for name in path:
        field = model.model_fields.get(str(name))
        candidates = _models_in(field.annotation) if field else [model]
        if not candidates:
            return []
        model = candidates[0]
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
