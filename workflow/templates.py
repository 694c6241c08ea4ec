"""Templates of config.yaml, such as `{question} Think step by step.`, filled with the fields of a row."""

from collections.abc import Mapping
from typing import Any

from workflow.config.section import ConfigError, nearest


def fill(template: str, fields: Mapping[str, Any], key: str) -> str:
    """The template with its `{names}` replaced; a literal brace is written twice.

    Args:
        key: the configuration key that holds the template, for the error.

    Raises:
        ConfigError: a name is not among the fields, or the template is malformed.
    """
    try:
        return template.format_map(fields)
    except KeyError as error:
        guess = nearest(str(error.args[0]), list(fields))
        hint = f"Did you mean {{{guess}}}?" if guess else f"Change {key}."
        raise ConfigError(
            f"{key} may use only fields of the source: {', '.join(map(str, fields))}; "
            f"got {{{error.args[0]}}} in {template!r}. {hint} A literal brace is written twice."
        ) from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{key} must be a template such as '{{question}}' over {', '.join(map(str, fields))}; got {template!r} ({error}). "
            "Name a field between the braces; a literal brace is written twice."
        ) from None
