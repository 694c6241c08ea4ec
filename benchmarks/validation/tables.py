"""Sums of a planted world in the form that the phase drift reads, so that its own code makes the tables that are validated."""

from collections.abc import Mapping

from torch import Tensor

from sae_core.metrics.reconstruction import ReconstructionSums
from sae_core.planted.measuring import Measured, Pair
from sae_core.planted.world import PlantedWorld
from workflow.drift.estimates import Measurement
from workflow.drift.table_rows import decomposition_rows
from workflow.formats.drift import BASE, REAL, DriftSums, named_tensors
from workflow.formats.drift import Pair as NamedPair
from workflow.formats.drift_columns import Decomposition
from workflow.formats.table_files import arrow_table
from workflow.frames import Table

UPDATES_PER_STAGE = 10
REPLICATES, CONFIDENCE = 2000, 0.95


def stage_name(stage: int) -> str:
    """The name of a stage in tables."""
    return BASE if stage == 0 else f"ppo_{UPDATES_PER_STAGE * stage:04d}"


def drift_sums(world: PlantedWorld, measured: Measured, seed: int) -> DriftSums:
    """The sums of one world and SAE seed as one measurement of the phase drift."""
    lines = {"dropped": measured.dropped, "included": measured.included}
    tensors = named_tensors({(_named(pair), sinks): sums for sinks, line in lines.items() for pair, sums in line.items()})
    prompts = len(next(iter(measured.dropped.values())).n)
    manifest = {
        "run": f"run_{world.config.run}", "text": "fixed" if world.config.paired else "onpolicy", "kind": "topk", "seed": seed,
        "layer": 0, "stages": [[stage_name(stage), UPDATES_PER_STAGE * stage] for stage in range(world.stages)],
        "chains": list(dict.fromkeys(pair.chain for pair in measured.dropped)), "paired": world.config.paired,
        "problems": [f"p{prompt:05d}" for prompt in range(prompts)],
    }  # fmt: skip
    return DriftSums(manifest, tensors)


def decomposition_table(measurements: list[DriftSums], replicates: int = REPLICATES) -> Table:
    """The table `decomposition` of some measurements, without what chains would tell that planted worlds do not have."""
    rows = [row for sums in measurements for row in decomposition_rows(Measurement(sums, replicates, CONFIDENCE, seed=0))]
    return arrow_table(rows, Decomposition).to_pandas().dropna(axis="columns", how="all")


def only_prompts(measured: Measured, prompts: Tensor) -> Measured:
    """The sums of some prompts, in their order."""

    def chosen(line: Mapping[Pair, ReconstructionSums]) -> dict[Pair, ReconstructionSums]:
        return {pair: ReconstructionSums(*(tensor[prompts] for tensor in sums)) for pair, sums in line.items()}

    dropped = chosen(measured.dropped)
    same = all(measured.included[pair] is sums for pair, sums in measured.dropped.items())
    return Measured(dropped, dropped if same else chosen(measured.included))


def _named(pair: Pair) -> NamedPair:
    assert pair.sae_stage or pair.chain == REAL
    return NamedPair(pair.chain, stage_name(pair.sae_stage), stage_name(pair.store_stage))
