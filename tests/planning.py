"""Planning the workflow in process: which jobs would run, without running them."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.settings.types import Quietness, RerunTrigger

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def planned(
    config: Mapping[str, Any], targets: tuple[str, ...] = (), folder: Path | None = None, jobs: bool = False
) -> Iterator[set[Any]]:
    """Yield {(rule, *wildcards)} of the jobs that would run in `folder` (default: the current one), without the target rules.

    With `jobs`, Snakemake's own jobs take the place of their names.

    The API reads no profile, so the triggers are taken from profiles/default.
    """
    triggers = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())["rerun-triggers"]
    before = Path.cwd()
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        try:
            flow = api.workflow(
                resource_settings=ResourceSettings(cores=2),
                config_settings=ConfigSettings(config=dict(config)),
                snakefile=ROOT / "Snakefile",
                workdir=folder,
            )
            settings = DAGSettings(targets=set(targets), rerun_triggers=frozenset(RerunTrigger[name.upper()] for name in triggers))
            flow.dag(dag_settings=settings).execute_workflow(executor="dryrun")
            dag = flow._workflow.dag
            needed = [job for job in dag._needrun if job.output]
            yield set(needed) if jobs else {(job.rule.name, *map(str, job.wildcards)) for job in needed}
        finally:
            os.chdir(before)
