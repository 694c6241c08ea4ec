"""What a code is for: steps that nothing foretells are rebuilt better from their own codes than from the mean code."""

import random
from pathlib import Path

import torch
from small_steps import write_lines

from sae_core.metrics.step_reconstruction import step_nll
from workflow.config.ssae import SsaeConfig
from workflow.formats.steps import StepStore
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.ssae.training import train_step_sae
from workflow.step_saes import stored_step_sae

TRAINING = {
    "epochs": 8, "batch": 16, "micro_batch": 16, "lr": 3e-3, "min_lr": 3e-4, "warmup_epochs": 0, "schedule_per": "update",
    "encoder_lr_multiple": 0, "evaluations_per_epoch": 0.5,
}  # fmt: skip


def test_a_start_at_the_target_leads_to_codes_that_tell_their_steps(tiny_llama: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [{"question": f"Which number is {at}?", "answer": f"{draw.randrange(100):02d}\n#### 1"} for at in range(600)]
    source = write_lines(tmp_path / "a.json", rows)
    step_cache(source=source, tokenizer=tiny_llama, rules=StepRules(format="gsm8k"), folder=tmp_path)
    settings = SsaeConfig(
        data={"format": "gsm8k", "train": "a.json", "valid_share": 0.2}, blocks=1, target_l1=3.0, training=TRAINING,
        initialisation="at_target", sparsity={"controller": "predictive", "start_weight": 1e-3, "max_weight": 1.0},
    )  # fmt: skip
    train_step_sae(
        steps=tmp_path / "steps.h5", valid=None, base=tiny_llama, given=None, folder=tmp_path / "ssae", settings=settings, seed=0,
        device="cpu", key="k", steps_digest="d",
    )  # fmt: skip
    model, facts = stored_step_sae(tmp_path / "ssae" / "manifest.json")
    with StepStore(tmp_path / "steps.h5") as store:
        batch = store.batch(range(200))
    codes, tokens = model.encode(batch), int(batch.predicted.sum())
    mean = torch.nn.functional.normalize(codes.mean(0), dim=0).expand(len(codes), -1)
    own, ablated = (float(step_nll(model, batch, code).sum()) / tokens for code in (codes, mean))
    assert ablated - own > 0.02
    assert 0.8 < facts["l1"] / 3.0 < 1.2
