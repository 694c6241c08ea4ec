"""Which controller brings the L1 norm of step codes to its target and keeps it there?

A step-level SAE around two small Llamas learns steps of sums, from a digit at a time; nothing but the controller differs. Columns:
README.md.

    python -m benchmarks.bench_ssae_control
"""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

from benchmarks.table import RESULTS, Line, show, write
from sae_core.config.step_training import StepTrainingConfig
from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from sae_core.training.micro_batches import micro_batches
from sae_core.training.sparsity_control import PredictiveControl, SparsityControl, SparsityTarget, StepwiseControl
from sae_core.training.step_records import StepUpdate
from sae_core.training.step_trainer import StepTrainer

log = logging.getLogger("bench_ssae_control")
D_MODEL, VOCAB, BATCH, MICRO = 128, 16, 32, 16
PLUS, EQUALS, SEPARATOR, END = 10, 11, 12, 13
WINDOW = 20
"""Updates over which L1 is averaged."""
NEAR = 0.05


def sums(count: int, draw: np.random.Generator) -> StepBatch:
    """Contexts such as `17+4+96`, and either of the two steps `17+4=21` and `21+96=117`."""
    rows, starts = [], []
    for a, b, c in draw.integers(0, 100, (count, 3)).tolist():
        left, right = (a, b) if draw.random() < 0.5 else (a + b, c)
        context = [*_digits(a), PLUS, *_digits(b), PLUS, *_digits(c), SEPARATOR]
        rows.append([*context, *_digits(left), PLUS, *_digits(right), EQUALS, *_digits(left + right), END])
        starts.append(len(context))
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(count, int(lengths.max()), dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return StepBatch(ids, torch.tensor(starts), lengths)


def _digits(number: int) -> list[int]:
    return [int(digit) for digit in str(number)]


def trained(control: SparsityControl, updates: int, lr: float, seed: int) -> list[StepUpdate]:
    """What every update told."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=2 * D_MODEL, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = StepSAE(
        encoder=AutoModel.from_config(config), decoder=AutoModelForCausalLM.from_config(config), d_model=D_MODEL
    )  # fmt: skip
    settings = StepTrainingConfig(
        updates_per_epoch=updates, epochs=1, decay_epochs=1, warmup_epochs=0, lr=lr, min_lr=lr, schedule="constant", seed=seed
    )
    trainer, draw = StepTrainer(model, settings, control), np.random.default_rng(seed)
    return [trainer.advance(micro_batches(sums(BATCH, draw), MICRO)) for _ in range(updates)]


def verdict(told: list[StepUpdate], target: float) -> Line:
    """When L1, over a window, was first near its target, when it was so for good, and how far off it is in the last third."""
    l1 = np.convolve([one.l1 for one in told], np.ones(WINDOW) / WINDOW, "valid")
    off = np.abs(l1 / target - 1)
    near, far = np.flatnonzero(off <= NEAR), np.flatnonzero(off > NEAR)
    stays = 0 if not len(far) else int(far[-1]) + 1
    last = off[-len(off) // 3 :]
    found = {"reached": WINDOW + int(near[0]) if len(near) else None, "stays_from": WINDOW + stays if stays < len(off) else None}
    errors = {"mean_error": f"{last.mean():.3f}", "largest_error": f"{last.max():.3f}"}
    ends = {"start_l1": f"{l1[0]:.2f}", "end_l1": f"{l1[-1]:.2f}", "end_weight": f"{told[-1].weight:.2e}"}
    return found | errors | ends | {"end_nll": f"{np.mean([one.nll for one in told[-WINDOW:]]):.3f}"}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--updates", type=int, default=400)
    arguments.add_argument("--targets", type=float, nargs="+", default=[3.0, 4.0])
    arguments.add_argument("--lr", type=float, nargs="+", default=[1e-3])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--predictive", type=float, nargs=3, action="append", metavar=("GAIN", "LOOKAHEAD", "SMOOTHING"))
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--out", type=Path, default=RESULTS, help="folder of the table")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    lines: list[Line] = []
    for target, lr, seed in [(target, lr, seed) for target in given.targets for lr in given.lr for seed in given.seeds]:
        aim = SparsityTarget(target)
        others = [PredictiveControl(aim, gain=gain, lookahead=ahead, smoothing=old) for gain, ahead, old in given.predictive or []]
        for control in (*(others or [StepwiseControl(aim), PredictiveControl(aim)]),):
            name = "stepwise" if isinstance(control, StepwiseControl) else "predictive"
            head = {"controller": name, "settings": " ".join(map(str, control.settings)), "target": target, "lr": lr, "seed": seed}
            lines.append(head | {"updates": given.updates} | verdict(trained(control, given.updates, lr, seed), target))
            show(lines[-1:])
    write(given.out / "ssae_control.csv", lines)


if __name__ == "__main__":
    main()
