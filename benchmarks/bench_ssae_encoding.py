"""Steps encoded per second, ours beside the published procedure, on random weights of the embedded model's shape.

The published procedure takes batches in the order of the file and picks the states row by row; ours sorts by length. Codes of both
are compared before the speeds are told. Processor time of one thread.

    python benchmarks/bench_ssae_encoding.py
"""

import argparse
import csv
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_ssae_generation import EMBEDDED
from sae_core.models.step_sae import StepSAE
from workflow.step_encoding import EncodingSettings, StepIds, encode_steps

log = logging.getLogger("bench_ssae_encoding")
RESULTS = Path(__file__).resolve().parent / "results" / "ssae_encoding.csv"
LEAST_COSINE = {"published": 1 - 1e-6, "saedrift": 1 - 1e-5, "saedrift, bf16": 0.99}
"""Between codes of both, for every step: rounding in float32, and of products in bfloat16."""


def random_steps(count: int, vocab: int) -> StepIds:
    """Contexts of 60 to 200 random tokens, steps of 10 to 60."""
    draw = np.random.default_rng(0)
    contexts, steps = (
        [draw.integers(3, vocab - 1, length).tolist() for length in draw.integers(*bounds, count)]
        for bounds in ((60, 201), (10, 61))
    )
    return StepIds(contexts, steps, separator=vocab - 1, end=2)


@torch.no_grad()
def published(model: StepSAE, steps: StepIds, batch_size: int) -> Tensor:
    """Codes as the published procedure makes them, on the CPU in float32."""
    codes = []
    for first in range(0, len(steps), batch_size):
        batch = steps.batch(range(first, min(first + batch_size, len(steps))))
        mask = batch.real.long()
        hidden = model.encoder(input_ids=batch.ids, attention_mask=mask).last_hidden_state
        last = torch.stack([hidden[row, int(mask[row].sum()) - 1] for row in range(len(mask))])
        codes.append(functional.normalize(torch.relu(model.autoencoder.encoder(last) + model.autoencoder.latent_bias), dim=-1))
    return torch.cat(codes)


def timed(encode: Callable[[], Tensor]) -> tuple[Tensor, float]:
    started = time.process_time()
    return encode(), time.process_time() - started


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--steps", type=int, default=64)
    arguments.add_argument("--batch", type=int, default=16, help="of the published procedure")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = StepSAE(encoder=LlamaModel(EMBEDDED), decoder=nn.Identity(), d_model=EMBEDDED.hidden_size).requires_grad_(False).eval()
    steps = random_steps(given.steps, EMBEDDED.vocab_size)
    half = EncodingSettings(precision="bf16")
    variants = {
        "published": lambda: published(model, steps, given.batch),
        "saedrift": lambda: encode_steps(model=model, steps=steps).dense(),
        "saedrift, bf16": lambda: encode_steps(model=model, steps=steps, settings=half).dense(),
    }
    published(model, random_steps(2, EMBEDDED.vocab_size), 2)  # warms up
    found = {name: timed(encode) for name, encode in variants.items()}
    for name, (codes, _) in found.items():
        least = float(torch.cosine_similarity(codes, found["published"][0]).min())
        if least < LEAST_COSINE[name]:
            raise SystemExit(f"{name} must give the published codes; a cosine is {least}. No speed is told.")
    tokens = int(steps.lengths().sum())
    with open(RESULTS, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["shape", "steps", "tokens", "variant", "seconds", "steps_per_s", "ratio_to_published", "threads", "clock"])
        for name, (_, seconds) in found.items():
            ratio = found["published"][1] / seconds
            line = [
                "SmolLM2-135M",
                given.steps,
                tokens,
                name,
                f"{seconds:.1f}",
                f"{given.steps / seconds:.2f}",
                f"{ratio:.2f}",
                1,
                "cpu",
            ]
            table.writerow(line)
            log.info("%s", line)


if __name__ == "__main__":
    main()
