"""Values given on the command line: `--config set='saes.k=32 policies.kl_coef=0.01'`."""

from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any

import yaml

from workflow.config.section import ConfigError

KEY = "set"
BRACKETS = {"[": "]", "{": "}"}


def with_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the assignments under its key `set` applied and the key removed.

    Snakemake refuses dots in the keys of `--config`, so dotted paths travel inside this one value. A value is YAML:
    `saes.layers=[10,20]`, `policies.revision=null`, `probes.judge={url: http://localhost:8000/v1, model: name}`.

    Raises:
        ConfigError: an assignment has no `=`, its value is no YAML, or its path runs through a plain value.
    """
    result = deepcopy(dict(config))
    assignments = result.pop(KEY, "")
    if not isinstance(assignments, str):
        raise ConfigError(
            f"{KEY} must be text such as 'saes.k=32 policies.kl_coef=0.01'; got {assignments!r}. "
            f"Write: snakemake --config {KEY}='saes.k=32'."
        )
    for assignment in _assignments(assignments):
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(
                f"An override must have the form section.key=value; got {assignment!r}. "
                f"Write for example: snakemake --config {KEY}='saes.k=32'."
            )
        _assign(result, path, _value(assignment, value))
    return result


def _assignments(text: str) -> list[str]:
    """The parts between blanks; blanks within brackets or quotes belong to a value.

    A quote opens where a value may begin. Snakemake takes quotes away from both ends of the whole text, so that an open one ends
    with it.
    """
    found, part, quote, open_brackets = [], "", "", []
    for before, sign in pairwise(f" {text}"):
        if sign.isspace() and not quote and not open_brackets:
            found.append(part)
            part = ""
            continue
        quoting = sign == quote or (not quote and sign in "'\"" and before in " =[{,:")
        if quoting:
            quote = "" if quote else sign
        elif not quote and sign in BRACKETS:
            open_brackets.append(BRACKETS[sign])
        elif not quote and open_brackets and sign == open_brackets[-1]:
            open_brackets.pop()
        part += sign if not quoting or open_brackets else ""
    return [one for one in [*found, part] if one]


def _value(assignment: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"The value of an override must be YAML, such as 3, [10,20] or {{url: http://localhost:8000/v1, model: name}}; "
            f"{assignment!r} is none: {str(error).splitlines()[0]}. Correct it."
        ) from None


def _assign(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    section = config
    for name in parents:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(
                f"An override's path must lead through sections; in {path!r}, {name!r} holds the value {section!r}. "
                f"Set {name!r} as a whole."
            )
    section[leaf] = value
