"""Which stores and SAEs a measurement reads, and that they belong together."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workflow.config.section import ConfigError
from workflow.formats.drift import BASE, COLD, PAIRED_TEXTS, REAL, REPEAT
from workflow.formats.manifest import read_manifest
from workflow.formats.saes import StoredSae, read_sae
from workflow.formats.shards import ARTEFACT as SHARD


class Cell(NamedTuple):
    """What one measurement is about: the wildcards of its rule."""

    run: str
    text: str
    kind: str
    seed: int
    layer: int

    @property
    def paired(self) -> bool:
        """Whether all stages read the same tokens."""
        return self.text in PAIRED_TEXTS


def stores_by_stage(manifests: Sequence[Path | str], cell: Cell, stages: Sequence[str]) -> dict[str, list[Path]]:
    """The held-out shards of every stage, in the order of the shards.

    Raises:
        ConfigError: a stage has no shard, or a shard is of another text set, layer, part, hook point or width.
    """
    found: dict[str, dict[str, Path]] = {stage: {} for stage in stages}
    hooks = set()
    for path in map(Path, manifests):
        facts = read_manifest(path, SHARD)
        expected = {"text": cell.text, "layer": cell.layer, "part": "heldout"}
        _check_facts(path, facts, expected)
        if facts["stage"] not in found:
            raise ConfigError(f"Stores must be of the stages {', '.join(stages)}; {path} is of {facts['stage']}. Leave it out.")
        found[facts["stage"]][str(facts["shard"])] = path
        hooks.add((facts["hook_point"], facts["d_model"]))
    if lost := [stage for stage, shards in found.items() if not shards]:
        raise ConfigError(f"Every stage must have a held-out store; none was given for {', '.join(lost)}. Extract it.")
    if len(hooks) > 1:
        raise ConfigError(f"All stores must be of one hook point and width; got {sorted(hooks)}. Extract them all alike.")
    return {stage: [shards[number] for number in sorted(shards, key=int)] for stage, shards in found.items()}


def load_saes(
    manifests: Sequence[Path | str], cell: Cell, stages: Sequence[str], chains: Sequence[str]
) -> dict[tuple[str, str], StoredSae]:
    """Every SAE of the measurement by (chain, stage), base once under `real`.

    Raises:
        ConfigError: an SAE is missing or given twice, belongs elsewhere, or does not start where its chain says.
    """
    saes: dict[tuple[str, str], StoredSae] = {}
    for path in map(Path, manifests):
        sae = read_sae(path)
        _check_facts(path, sae.facts, {"kind": cell.kind, "seed": cell.seed, "layer": cell.layer})
        name = (sae.facts["chain"], sae.facts["stage"])
        if name in saes:
            raise ConfigError(
                f"All chains must share one SAE at {'/'.join(name)}; two were given, {saes[name].facts['digest'][:12]}… and "
                f"{sae.facts['digest'][:12]}… ({path}). Leave one out, or train its chain again from the other."
            )
        saes[name] = sae
    needed = [(REAL, BASE), *((chain, stage) for chain in chains for stage in stages[1:])]
    if lost := [f"{chain}/{stage}" for chain, stage in needed if (chain, stage) not in saes]:
        raise ConfigError(f"Every chain must have an SAE at every stage; {', '.join(lost)} were not given. Train them.")
    for chain in chains:
        _check_lineage(saes, chain, stages)
    return {name: saes[name] for name in needed}


def _check_lineage(saes: Mapping[tuple[str, str], StoredSae], chain: str, stages: Sequence[str]) -> None:
    """Each SAE of a chain must start where the chain says: `real` and `null` from the SAE of their stage before, first from that of
    base that all chains share; `repeat` from that of `real` at its own stage; `cold` from none.
    """
    for before, stage in itertools.pairwise(stages):
        parent = (REAL, stage) if chain == REPEAT else (REAL if before == BASE else chain, before)
        parent = None if chain == COLD else parent
        wanted, found = saes[parent].facts["digest"] if parent else None, saes[chain, stage].facts["parent"]
        if found != wanted:
            start = f"from that of {'/'.join(parent)}, digest {wanted[:12]}…" if parent and wanted else "fresh"
            raise ConfigError(
                f"The SAE of stage {stage} in chain {chain} must start {start}; it started "
                f"{f'from {found[:12]}…' if found else 'fresh'}. Train the chain {chain} again."
            )


def check_width(saes: Mapping[tuple[str, str], StoredSae], hook_point: str, d_model: int) -> None:
    """Refuse SAEs that were trained on other vectors than the stores hold.

    Raises:
        ConfigError: hook point or width differ.
    """
    for (chain, stage), sae in saes.items():
        _check_facts(f"SAE {chain}/{stage}", sae.facts, {"hook_point": hook_point, "d_model": d_model})


def _check_facts(path: Path | str, facts: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, wanted in expected.items():
        if facts[name] != wanted:
            raise ConfigError(
                f"What this measurement reads must have {name} = {wanted}; {path} has {facts[name]}. "
                "Leave it out, or measure it under its own name."
            )
