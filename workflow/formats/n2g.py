"""What Neuron2Graph leaves for one SAE: `graphs.json`, and beside it `manifest.json` (artefact `n2g`).

graphs.json MUST hold `method` (`patterns` or `original`) and `latents`, a list in the order in which they were chosen; of each

- `latent`, `sae` (`trained`; `untrained`: of an SAE with random weights, the line below which an explanation tells nothing),
  `group` (`changed`, `random`, `listed`; `untrained`), `state` (`mined`, `silent`: it never fires on the rows, `unexplained`: no
  pattern);
- `firings`, `rows` and `largest`: rows on which it is active, kept rows, largest activation, all of the hop's store;
- `patterns`, most telling first; of each `elements` from left to right, the last at the row that it speaks of, `activation` (mean
  over the rows that it matches), `matched`, `fired` and `strong` (rows), `gain` (bits), `says_active` (if false, it only ranks
  rows) and `says_strong`; paths of `original` have elements and activation alone. An element is {`ids`, `texts`}: one of these
  tokens; {`class`}: `NUM`, `OP`, or `ANY` token; {`gap`: [least, most]}: any so many tokens;
- `overlap_halves`: share of the paths that graphs of two halves of the rows have in common; null of `original`;
- `contexts`: rows that were taken apart: `texts` and `importance` by token, `activation`, `kept`;
- `category`, what the patterns are about by rule. Names by a language model stand in `labels.parquet` beside it, where one was
  asked.

manifest.json MUST say run, text, kind, seed, layer, stage, `sae` and `model` (digests), method, `skip_positions` (tokens of a text
that stand in front of every window), `parts` (of the store) and `digest` (of graphs.json).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, write_json
from workflow.formats.manifest import read_manifest, write_manifest

ARTEFACT, FILE = "n2g", "graphs.json"
MINED, SILENT, UNEXPLAINED = "mined", "silent", "unexplained"
TRAINED, UNTRAINED = "trained", "untrained"


def write_graphs(folder: Path | str, graphs: Mapping[str, Any], **facts: Any) -> None:
    """Write graphs.json and then its manifest."""
    path = Path(folder) / FILE
    write_json(path, graphs)
    write_manifest(path.with_name("manifest.json"), ARTEFACT, **facts, method=graphs["method"], digest=file_digest(path))


def read_graphs(manifest: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """graphs.json beside a manifest, and the fields of the manifest.

    Raises:
        ConfigError: it is not the one that the manifest describes.
    """
    facts, path = read_manifest(manifest, ARTEFACT), Path(manifest).with_name(FILE)
    found = file_digest(path) if path.is_file() else "nothing"
    if found != facts["digest"]:
        raise ConfigError(
            f"{path} must have the digest {facts['digest'][:12]}… that its manifest names; got {found[:12]}. "
            "Delete the manifest and run again, it will be mined anew."
        )
    return json.loads(path.read_text(encoding="utf-8")), facts
