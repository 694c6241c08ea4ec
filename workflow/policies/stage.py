"""One stage of a trained RL run: PPO from the stage before, its KL measured, everything published."""

import contextlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from workflow.config.policies import PpoConfig
from workflow.config.prompts import PromptsConfig
from workflow.devices import choose_device, choose_dtype, dtype_name
from workflow.formats.files import publish, scratch_folder
from workflow.formats.manifest import read_manifest
from workflow.formats.problems import Problem, read_problems
from workflow.language_model import load_model, load_tokenizer
from workflow.policies.base import write_curve
from workflow.policies.describe import ARTEFACT, Place, describe, save_policy
from workflow.policies.learner import STATE, Learner
from workflow.policies.rollout import draw, roll_out
from workflow.policies.scoring import arrange, score
from workflow.policies.source import emptied
from workflow.policies.training import SECONDS_BETWEEN_SAVES, CurveRow, train

log = logging.getLogger(__name__)


def make_stage(
    *, base: Path | str, base_model: Path | str, problems: Path | str, previous: Path | str | None, model: Path | str,
    training: Path | str, curve: Path | str, manifest: Path | str, run: str, stage: str, first_update: int, last_update: int,
    ppo: PpoConfig, prompts: PromptsConfig, compute: Mapping[str, str], key: str,
    seconds_between_saves: float = SECONDS_BETWEEN_SAVES,
) -> dict[str, Any]:  # fmt: skip
    """Train the updates first…last of a run, save the merged policy, and write its manifest; facts for provenance.

    A job that was killed goes on from its last saved update and ends with the same bytes.

    Args:
        base: manifest of the base policy, which training started from.
        base_model: its folder.
        problems: problems.parquet, of which the split ppo is used.
        previous: training folder of the stage before; None for the first stage behind `base`.
        model: folder of the merged policy.
        training: folder of the state after `last_update`.
        curve: csv, one row per update of this stage, see CurveRow.
        manifest: manifest.json to write.
        run: name of the run.
        stage: name of the stage.
        first_update: first update of this stage, counted from 1.
        last_update: its last.
        ppo: settings of the run.
        prompts: how a problem is put to the policy.
        compute: `device` and `dtype`.
        key: of the job.
        seconds_between_saves: how much work a kill may cost.

    Raises:
        ConfigError: there is no problem of the split ppo.
        ValueError: `previous` is not the state before `first_update`.
    """
    device = choose_device(compute["device"])
    dtype = choose_dtype(compute["dtype"], device)
    tokenizer, chosen = load_tokenizer(base_model), read_problems(problems, ["ppo"])
    learner = Learner(load_model(base_model, device, dtype), ppo)
    if previous is not None:
        learner.load(Path(previous) / STATE)
    if learner.update != first_update - 1:
        raise ValueError(
            f"Stage {stage} must start from the state after update {first_update - 1}; the state before it has {learner.update}. "
            f"Delete results/policies/{run} and run again."
        )
    scratch = scratch_folder(training, key)
    rows = train(learner, tokenizer, chosen, last_update, ppo, prompts, scratch, seconds_between_saves)
    kl = measured_kl(learner, tokenizer, chosen, ppo, prompts)
    _publish(learner, rows, Path(base_model), Path(model), Path(training), Path(curve), key)
    place = Place(run, stage, last_update, round(kl, 6), ppo.kl_coef, ppo.kl_in, ppo.reward)
    source = read_manifest(base, ARTEFACT)
    describe(manifest, model, place, source["source"], source["revision"])
    shutil.rmtree(scratch)
    with contextlib.suppress(OSError):
        scratch.parent.rmdir()
    return {"device": str(device), "dtype": dtype_name(dtype), "engine": "transformers", "problems": len(chosen)}


@torch.no_grad()
def measured_kl(
    learner: Learner, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], ppo: PpoConfig, prompts: PromptsConfig
) -> float:
    """KL of the policy as it is now to the start policy: mean nats per response over one batch that it samples.

    At every token the whole distributions are compared, not the drawn token alone, so it is never negative and varies less than
    the curve's estimate. The batch is the same for all stages of a seed.
    """
    model = learner.policy.merge()
    rollout = roll_out(model, tokenizer, draw(problems, ppo.batch, ppo.seed, "kl"), learner.value, ["kl"], ppo, prompts)
    size, total = ppo.batch // ppo.minibatches, 0.0
    for first in range(0, ppo.batch, size):
        texts = arrange(rollout.prompts[first : first + size], rollout.responses[first : first + size], model.device)
        here = score(model, texts).logits.log_softmax(-1)
        with learner.policy.peft.disable_adapter():
            start = score(learner.policy.model, texts).logits.log_softmax(-1)
        total += float(((here.exp() * (here - start)).sum(-1) * texts.written).sum())
    return max(total / ppo.batch, 0.0)


def _publish(
    learner: Learner, rows: Sequence[CurveRow], base_model: Path, model: Path, training: Path, curve: Path, key: str
) -> None:
    """Model, training state and curve; the scratch folder of the training stays until the manifest is written."""
    merged = emptied(scratch_folder(model, key))
    save_policy(learner.policy.merge(), base_model, merged)
    publish(merged, model)
    exported = scratch_folder(training, key) / "export"
    learner.export(exported)
    publish(exported, training)
    write_curve(curve, CurveRow._fields, rows)
