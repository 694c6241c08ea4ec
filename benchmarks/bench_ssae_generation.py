"""Time to write steps from their codes, ours beside the published procedure, on random weights of the embedded model's shape.

The published procedure has no key/value cache: for every token it pads all sequences anew, reads them whole and computes the logits
of all positions. Its passes over sequences of some lengths are timed (`--every`), those between are interpolated, because all of
them take a quarter of an hour. The ids that both write are compared at a small size before anything is timed. No row may end early.

    python benchmarks/bench_ssae_generation.py
"""

import argparse
import csv
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sae_core.models.step_sae import StepSAE
from workflow.step_decoding import GREEDY, decode_steps

log = logging.getLogger("bench_ssae_generation")
RESULTS = Path(__file__).resolve().parent / "results" / "ssae_generation.csv"
EMBEDDED = LlamaConfig(
    vocab_size=49153, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip
SMALL = LlamaConfig(
    vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    tie_word_embeddings=True,
)  # fmt: skip
NEVER = -1
"""An end that no row can write."""


def random_ssae(config: LlamaConfig) -> StepSAE:
    """A decoder with a bottleneck; the encoder, which writes nothing, is one block."""
    torch.manual_seed(0)
    narrow = LlamaConfig(**{**config.to_dict(), "num_hidden_layers": 1})
    model = StepSAE(encoder=LlamaModel(narrow), decoder=LlamaForCausalLM(config), d_model=config.hidden_size)
    return model.requires_grad_(False).eval()


def small_ssae() -> StepSAE:
    """One whose tokens depend on code and context; random weights this small must be enlarged for that."""
    model = random_ssae(SMALL)
    for parameter in (*model.decoder.parameters(), *model.projection_mlp.parameters()):
        parameter.data.mul_(3)
    return model


def contexts_of(rows: int, vocab: int) -> list[list[int]]:
    """Random ids as long as a question with some steps behind it, 60 to 200."""
    draw = np.random.default_rng(0)
    return [draw.integers(3, vocab - 1, length).tolist() for length in draw.integers(60, 201, rows)]


@torch.no_grad()
def published_pass(model: StepSAE, codes: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
    """The next token of each row, as the published procedure finds it: one padded pass over everything written so far."""
    decoder: Any = model.decoder
    longest = max(map(len, sequences))
    ids = torch.stack([functional.pad(torch.tensor(row), (0, longest - len(row))) for row in sequences])
    soft = model.soft_tokens(codes)
    mask = torch.tensor([[1] * (model.factor + len(row)) + [0] * (longest - len(row)) for row in sequences])
    inputs = torch.cat([soft, decoder.get_input_embeddings()(ids)], dim=1)
    logits = decoder(inputs_embeds=inputs, attention_mask=mask, use_cache=False).logits
    return torch.stack([logits[row, model.factor + len(text) - 1].argmax() for row, text in enumerate(sequences)])


def published(model: StepSAE, codes: Tensor, sequences: list[list[int]], new_tokens: int) -> list[list[int]]:
    """All tokens, one pass each."""
    written = [list(row) for row in sequences]
    for _ in range(new_tokens):
        for row, token in zip(written, published_pass(model, codes, written).tolist(), strict=True):
            row.append(token)
    return [row[len(start) :] for row, start in zip(written, sequences, strict=True)]


def published_seconds(model: StepSAE, codes: Tensor, sequences: list[list[int]], written: list[list[int]], every: int) -> float:
    """Processor time of all passes of the published procedure: some are timed, those between lie on a line."""
    new = len(written[0])
    points, seconds = sorted({*range(0, new, every), new - 1}), []
    for point in points:
        so_far = [start + row[:point] for start, row in zip(sequences, written, strict=True)]
        started = time.process_time()
        published_pass(model, codes, so_far)
        seconds.append(time.process_time() - started)
        log.info("published, token %d: %.2f s", point + 1, seconds[-1])
    return float(np.interp(np.arange(new), points, seconds).sum())


def ours(model: StepSAE, codes: Tensor, contexts: list[list[int]], new_tokens: int) -> tuple[list[list[int]], float]:
    """All tokens, and the processor time they took."""
    vocab = model.decoder.config.vocab_size
    settings = GREEDY._replace(max_new_tokens=new_tokens, batch=len(contexts))
    started = time.process_time()
    sampled = decode_steps(model=model, codes=codes, contexts=contexts, separator=vocab - 1, end=NEVER, settings=settings)
    return [row.tokens for row in sampled], time.process_time() - started


def random_codes(rows: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return functional.normalize(torch.relu(torch.randn(rows, width, generator=draw)), dim=-1)


def check_agreement() -> None:
    """Refuse to time what writes other tokens."""
    model, contexts = small_ssae(), contexts_of(8, 500)
    codes = random_codes(8, model.d_code)
    theirs = published(model, codes, [[*context, 499] for context in contexts], 32)
    if theirs != ours(model, codes, contexts, 32)[0]:
        raise SystemExit("Both must write the same tokens; they differ. Nothing was timed.")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--new-tokens", type=int, default=128)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--repeats", type=int, default=3, help="of ours")
    arguments.add_argument("--every", type=int, default=32, help="tokens between timed passes of the published procedure")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    check_agreement()
    model, contexts = random_ssae(EMBEDDED), contexts_of(given.batch, EMBEDDED.vocab_size)
    codes = random_codes(given.batch, model.d_code)
    ours(model, codes, contexts, 2)  # warms up
    runs = [ours(model, codes, contexts, given.new_tokens) for _ in range(given.repeats)]
    sequences = [[*context, EMBEDDED.vocab_size - 1] for context in contexts]
    spent = {
        "published": published_seconds(model, codes, sequences, runs[0][0], given.every),
        "saedrift": statistics.median(seconds for _, seconds in runs),
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(
            ["shape", "batch", "new_tokens", "variant", "seconds", "tokens_per_s", "ratio_to_published", "threads", "clock"]
        )
        for name, seconds in spent.items():
            rate, ratio = given.batch * given.new_tokens / seconds, spent["published"] / seconds
            line = ["SmolLM2-135M", given.batch, given.new_tokens, name, f"{seconds:.1f}", f"{rate:.2f}", f"{ratio:.2f}", 1, "cpu"]
            table.writerow(line)
            log.info("%s", line)


if __name__ == "__main__":
    main()
