"""Values given on the command line: `--config set='saes.k=32 policies.kl_coef=0.01'`."""

import shlex
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import yaml

from workflow.config.section import ConfigError

KEY = "set"


def with_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the assignments under its key `set` applied and the key removed.

    Snakemake refuses dots in the keys of `--config`, so dotted paths travel inside this one value. A value is YAML:
    `saes.layers=[10,20]`, `policies.revision=null`.

    Raises:
        ConfigError: an assignment has no `=`, or its path runs through a plain value.
    """
    result = deepcopy(dict(config))
    assignments = result.pop(KEY, "")
    if not isinstance(assignments, str):
        raise ConfigError(
            f"{KEY} must be text such as 'saes.k=32 policies.kl_coef=0.01'; got {assignments!r}. "
            f"Write: snakemake --config {KEY}='saes.k=32'."
        )
    for assignment in shlex.split(assignments):
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(
                f"An override must have the form section.key=value; got {assignment!r}. "
                f"Write for example: snakemake --config {KEY}='saes.k=32'."
            )
        _assign(result, path, yaml.safe_load(value))
    return result


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
