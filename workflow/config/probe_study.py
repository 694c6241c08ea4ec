"""Which pools of solutions a study has, and what is refused of section `probes` before any job starts."""

from pathlib import Path
from typing import NamedTuple

from workflow.config.section import ConfigError
from workflow.config.study import SHARED, Study

POOL = "pool"
LABEL_ENDINGS = (".csv", ".jsonl", ".parquet")


class PoolAt(NamedTuple):
    """The solutions of one policy."""

    run: str
    """`shared` for base."""
    stage: str


def every_pool(study: Study) -> list[PoolAt]:
    """All of them, that of base once for all runs."""
    cells = (PoolAt(study.home(run, POOL, stage), stage) for run in probed_runs(study) for stage in pool_stages(study, run))
    return list(dict.fromkeys(cells))


def pool_stages(study: Study, run: str) -> list[str]:
    """Stages of a run that get a pool, in their order."""
    names = [stage.name for stage in study.stages(study.runs[0] if run == SHARED else run)]
    wanted = (names[0], names[-1]) if study.probes.stages is None else study.probes.stages
    return [name for name in names if name in wanted]


def check_probes(study: Study) -> None:
    """Refuse runs and stages that a study does not have, and labels that are not there.

    Raises:
        ConfigError: see there.
    """
    if unknown := sorted(set(probed_runs(study)) - set(study.runs)):
        raise ConfigError(f"probes.runs may name only {', '.join(study.runs)}; got {', '.join(unknown)}. Correct it.")
    for run in probed_runs(study):
        known = [stage.name for stage in study.stages(run)]
        if unknown := [stage for stage in study.probes.stages or () if stage not in known]:
            raise ConfigError(
                f"probes.stages may name only stages of the run {run}: {', '.join(known)}; got {', '.join(unknown)}. Correct it."
            )
    if (given := study.probes.labels) and not (Path(given).is_file() and Path(given).suffix in LABEL_ENDINGS):
        raise ConfigError(
            f"probes.labels must be an existing file that ends in {', '.join(LABEL_ENDINGS)}; got {given}. Correct the path or "
            "set it to null."
        )


def probed_runs(study: Study) -> list[str]:
    """Runs whose stages get a pool."""
    return study.runs if study.probes.runs is None else study.probes.runs
