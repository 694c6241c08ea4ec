"""What every rule file uses: the study, fingerprints, threads, and wildcards. The only rule file that imports."""

from os import sched_getaffinity

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from workflow.config.models import local_weights
from workflow.config.plan import every_store
from workflow.config.plan_text import describe
from workflow.config.probe_study import POOL, every_pool, pool_stages, probed_runs
from workflow.config.preflight import base_shape, refuse_early
from workflow.config.recipes import recipes
from workflow.config.sae_settings import PRICED
from workflow.config.section import ConfigError
from workflow.config.ssae_study import (
    SsaeAt,
    compares_step_latents,
    every_ssae,
    given_file,
    is_trained,
    measured_steps,
    ssae_parent,
    steps_of,
)
from workflow.config.study import SHARED, load_study
from workflow.fingerprint import fingerprint

try:
    STUDY = load_study(config)
    SHAPE = base_shape(STUDY)
    if workflow.is_main_process:
        logger.info(describe(STUDY, refuse_early(STUDY)))
except ConfigError as error:
    raise WorkflowError(f"This study cannot run:\n{error}") from None


wildcard_constraints:
    run=r"[A-Za-z]\w*",
    text="fixed|replayed|onpolicy|greedy|pool",
    stage=r"[A-Za-z]\w*",
    part=r"heldout|hop_\d+",
    shard=r"\d{3}",
    kind=r"[a-z_]+",
    chain="[a-z]+",
    seed=r"-?\d+",
    layer=r"\d+",


def code(script, environment=None):
    """Fingerprint of an entry script and its environment, which is that of its phase where none is named."""
    phase = script.split("/")[1]
    return fingerprint(script, f"envs/{environment or ENVIRONMENTS[phase]}.yaml")


ENVIRONMENTS = {
    "problems": "lm",
    "policies": "lm",
    "traces": "lm",
    "activations": "lm",
    "saes": "numerics",
    "drift": "numerics",
    "interventions": "lm",
    "ssae": "lm",
    "probes": "probes",
    "voting": "probes",
    "n2g": "lm",
    "report": "report",
}


def share_of_machine(threads):
    """Threads to declare for a job that computes with `threads`.

    Cores promised beyond those of the machine would let OpenMP pools contend, ten times slower than one after the other:
    the declared number grows in proportion, so that no more jobs run at once than the machine has cores for.
    """
    cores = workflow.resource_settings.cores
    machine = len(sched_getaffinity(0))
    if not workflow.local_exec or not cores or cores <= machine:
        return threads
    return max(1, threads * cores // machine)


def memory(fixed, weights=0):
    """Megabytes of a job: a fixed part and so many float32 copies of the model; twice as much on a second attempt."""
    megabytes = fixed + weights * 4 * SHAPE.parameters // 10**6
    return lambda wildcards, attempt: megabytes * attempt


THREADS = share_of_machine(STUDY.compute.threads)
ONE_THREAD = share_of_machine(1)
GPU = int(STUDY.compute.device == "cuda" or (STUDY.compute.device == "auto" and Path("/dev/nvidia0").exists()))
MACHINE = {"device": STUDY.compute.device, "dtype": STUDY.compute.dtype}
ROW_FILTER = {
    "max_norm_multiple": STUDY.activations.max_norm_multiple,
    "skip_positions": STUDY.activations.skip_positions,
}
SHARDS = [f"{number:03d}" for number in range(STUDY.activations.shards)]


PROBLEMS = {"problems_manifest": "results/problems/manifest.json", "problems": ancient("results/problems/problems.parquet")}


def stage_names(run):
    """Stages of a run, `base` first."""
    return [stage.name for stage in STUDY.stages(run)]


def policy_files(run, stage):
    """Manifest and folder of a policy, as the inputs of what uses it."""
    folder = f"results/policies/{STUDY.home(run, 'fixed', stage)}/{stage}"
    return {"policy": f"{folder}/manifest.json", "model": ancient(f"{folder}/model")}


def every_policy():
    """(run, stage) of every policy of the study, `base` once."""
    return [(SHARED, "base")] + [(run, stage) for run in STUDY.runs for stage in stage_names(run)[1:]]


def hop_runs():
    """(run, stage) of every stage behind `base`."""
    return every_policy()[1:]
