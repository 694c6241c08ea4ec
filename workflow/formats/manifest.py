"""manifest.json: what an artefact is and the digests of its content; the file that Snakemake tracks between phases.

A manifest MUST depend on the artefact's content and meaning alone: the same content gives the same bytes, so that an
artefact rebuilt identically re-runs nothing downstream. Everything about the making (settings, code, versions, machine,
seconds) stands in provenance.json beside it. Keys: `format` ("saedrift"), `version` (1), `artefact` (its kind), and the
fields that the shelf of that kind documents.
"""

import json
from pathlib import Path
from typing import Any

from workflow.formats.files import write_json

FORMAT, VERSION = "saedrift", 1


def write_manifest(path: Path | str, artefact: str, **fields: Any) -> None:
    """Write the manifest of one artefact."""
    write_json(path, {"format": FORMAT, "version": VERSION, "artefact": artefact, **fields})


def read_manifest(path: Path | str, artefact: str) -> dict[str, Any]:
    """The fields of a manifest.

    Raises:
        ValueError: the file is not a manifest of this kind of artefact and version.
    """
    manifest = json.loads(Path(path).read_text(encoding="utf-8"))
    found = (manifest.get("format"), manifest.get("version"), manifest.get("artefact"))
    if found != (FORMAT, VERSION, artefact):
        raise ValueError(
            f"{path} must be a manifest of format {FORMAT}, version {VERSION}, artefact {artefact}; got {found}. "
            "Delete it and run again, it will be rebuilt."
        )
    return manifest
