"""Rows of the source named in the configuration: a generator, a data set of the hub, or a file."""

from pathlib import Path
from typing import Any, NamedTuple

from workflow.config.problems import ProblemsConfig
from workflow.config.section import ConfigError, nearest
from workflow.problems.hub import hub_files
from workflow.problems.row_files import read_rows

GENERATOR, HUB, GSM8K = "reasoning_gym:", "hub:", "gsm8k"
GSM8K_OPTIONS = {"config": "main", "split": "train+test"}
"""All of GSM8K, since problems are split here; options of the configuration win."""


class Source(NamedTuple):
    """Rows as they come, and what provenance.json says of them."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]


def read_source(settings: ProblemsConfig, local: Path | None = None) -> Source:
    """The rows of problems.source, at most problems.size of them.

    Args:
        local: where the file lies if the source is one; None is problems.source itself.

    Raises:
        ConfigError: the source is unknown, out of reach, not as its name promises, or empty.
    """
    if settings.source.startswith(GENERATOR):
        source = _generated(settings.source.removeprefix(GENERATOR), settings)
    elif settings.source == GSM8K:
        source = _from_hub("openai/gsm8k", GSM8K_OPTIONS | settings.options, settings)
    elif settings.source.startswith(HUB):
        source = _from_hub(settings.source.removeprefix(HUB), {"config": None, "split": "train"} | settings.options, settings)
    else:
        source = Source(read_rows(local or Path(settings.source), settings.size), {})
    if not source.rows:
        raise ConfigError(f"problems.source must hold problems; {settings.source} is empty. Choose another source.")
    return source


def _generated(name: str, settings: ProblemsConfig) -> Source:
    from reasoning_gym.factory import DATASETS, create_dataset  # takes seconds to import, needed for this source alone

    if name not in DATASETS:
        guess = nearest(name, sorted(DATASETS))
        raise ConfigError(
            f"problems.source must name a data set of reasoning-gym; there is no {name!r} among its {len(DATASETS)}. "
            + (
                f"Did you mean {GENERATOR}{guess}?"
                if guess
                else "See https://github.com/open-thought/reasoning-gym for their names."
            )
        )
    try:
        dataset = create_dataset(name, size=settings.size, seed=settings.seed, **settings.options)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"problems.options must be options of reasoning-gym's {name}; got {settings.options}: {error}. Correct them."
        ) from None
    items = (dataset[index] for index in range(len(dataset)))
    return Source([{"question": item["question"], "answer": item["answer"], "metadata": item["metadata"]} for item in items], {})


def _from_hub(dataset: str, options: dict[str, Any], settings: ProblemsConfig) -> Source:
    if unknown := sorted(set(options) - set(GSM8K_OPTIONS)):
        raise ConfigError(
            f"problems.options of a hub data set may hold config and split; got {', '.join(unknown)}. "
            "Set for example problems.options: {config: main, split: train}."
        )
    files = hub_files(dataset, settings.revision, options["config"], options["split"])
    rows: list[dict[str, Any]] = []
    for path in files.paths:
        rows += read_rows(path, None if settings.size is None else settings.size - len(rows))
    return Source(rows, {"dataset": dataset, "revision": files.revision, "files": [path.name for path in files.paths], **options})
