"""The start model of trained runs as a folder of results."""

from pathlib import Path
from typing import Any

from workflow.config.study import SHARED
from workflow.formats.files import publish, scratch_folder
from workflow.model_sources import locate
from workflow.policies.describe import Place, describe
from workflow.policies.source import emptied, put


def materialise_start(*, model: Path | str, manifest: Path | str, source: str, revision: str | None, key: str) -> dict[str, Any]:
    """Put the start model into `model` and write its manifest; facts for provenance.

    Args:
        model: folder to make.
        manifest: manifest.json to write.
        source: policies.model: `embedded:<name>`, a hub id or a local directory.
        revision: of a hub id.
        key: of the job.

    Raises:
        ConfigError: see locate and put.
    """
    located = locate(source, revision)
    scratch = emptied(scratch_folder(model, key))
    facts = put(located, scratch)
    publish(scratch, model)
    described = describe(manifest, model, Place(SHARED, "start", 0), source, located.revision)
    return {**facts, "revision": located.revision, "dtype": described["dtype"]}
