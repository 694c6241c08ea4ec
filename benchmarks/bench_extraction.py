"""Speed of extraction, from token ids to published shards, beside a bare forward pass over the same batches.

The bare pass stops after the same block and throws everything away: it is the ceiling. Both run in one process in turn, so that a
busy machine slows both alike; the result is the ratio of the medians. Loading the model is in neither. On a machine that is busy
with other work, `--clock cpu --threads 1` counts the processor time of all threads instead, writing included.

    python benchmarks/bench_extraction.py --threads 2
"""

import argparse
import csv
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from workflow.activations.extraction import compute_blocks, publish_layers
from workflow.activations.labels import row_labels
from workflow.activations.partial_shards import PartialShards
from workflow.activations.passes import Form, Texts, texts_of
from workflow.batching import batches, blocks, padded
from workflow.devices import choose_device, choose_dtype, dtype_name
from workflow.embedded_model import embedded_model
from workflow.formats.traces import Trace, trace_id
from workflow.language_model import load_model
from workflow.residuals import ResidualReader

log = logging.getLogger("bench_extraction")
RESULTS = Path(__file__).resolve().parent / "results" / "extraction.csv"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
EMBEDDED = "SmolLM2-135M-Instruct"
WHERE = {"run": "shared", "text": "fixed", "stage": "base", "part": "hop_0", "shard": "000"}


def solutions(tokens: int, vocab: int) -> list[Trace]:
    """Traces of random tokens as long as GSM8K questions with solutions, 60 to 320, `tokens` in all."""
    draw, traces = random.Random(0), []
    while tokens:
        length = min(tokens, draw.randint(60, 320))
        length = tokens if tokens - length < 60 else length
        problem = f"p{len(traces):012x}"
        ids = [draw.randrange(3, vocab) for _ in range(length)]
        traces.append(
            Trace(
                trace_id(problem, "base", 0), problem, "train", len(traces), "base", 0, ids, 30, 5, 25, [length],
                "", True, [-1.0] * (length - 30), "", False, False, False, False,
            )
        )  # fmt: skip
        tokens -= length
    return traces


def bare_batches(texts: Texts, form: Form) -> list[Tensor]:
    """The passes of extraction as padded token ids."""
    return [
        torch.from_numpy(padded([texts.tokens[text] for text in batch]))
        for block in blocks(texts.lengths, form.block_tokens)
        for batch in batches(block, texts.lengths, form.batch_tokens)
    ]


def run_bare(model: PreTrainedModel, form: Form, ids: list[Tensor]) -> None:
    """Forward passes that stop after the last layer."""
    with ResidualReader(model, [max(form.layers)]) as reader:
        for batch in ids:
            reader.read(batch.to(reader.device))
    if reader.device.type == "cuda":
        torch.cuda.synchronize()


def run_extraction(model: PreTrainedModel, form: Form, traces: list[Trace]) -> None:
    """The whole path of a job with its model loaded."""
    with tempfile.TemporaryDirectory() as folder:
        texts = texts_of(traces, 1024)
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        shards = PartialShards(scratch, form, sum(texts.lengths))
        compute_blocks(model, texts, form, shards)
        manifests = [Path(folder) / f"layer_{layer}" / "shard_000.json" for layer in form.layers]
        publish_layers(shards, form, row_labels(traces, 1024), manifests, WHERE)


def measure(model: PreTrainedModel, form: Form, tokens: int, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of both; a first, short round of each warms up and does not count."""
    traces = solutions(tokens, model.config.vocab_size)
    ids = bare_batches(texts_of(traces, 1024), form)
    run_bare(model, form, ids[:1])
    run_extraction(model, form, traces[:4])
    seconds: dict[str, list[float]] = {"bare": [], "saedrift": []}
    for repeat in range(repeats):
        order = ["bare", "saedrift"] if repeat % 2 else ["saedrift", "bare"]
        for name in order:
            started = clock()
            run_bare(model, form, ids) if name == "bare" else run_extraction(model, form, traces)
            seconds[name].append(clock() - started)
        log.info("round %d: bare %.2f s, saedrift %.2f s", repeat + 1, seconds["bare"][-1], seconds["saedrift"][-1])
    return {name: statistics.median(spent) for name, spent in seconds.items()}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("model", type=Path, nargs="?", help="a transformers folder; the embedded model if left out")
    arguments.add_argument("--name", default=f"{EMBEDDED} (Q4_1-dequantised)", help="of the model, for the table")
    arguments.add_argument("--layers", type=int, nargs="+", default=[10, 20])
    arguments.add_argument("--tokens", type=int, default=16384)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--clock", choices=list(CLOCKS), default="wall")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    model = load_model(given.model or embedded_model(EMBEDDED)[0], device, dtype)
    form = Form(tuple(given.layers), model.config.hidden_size, dtype_name(dtype), 2048, 1024)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    medians = measure(model, form, given.tokens, given.repeats, CLOCKS[given.clock])
    with open(RESULTS, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["model", "layers", "tokens", "variant", "tokens_per_s", "ratio_to_bare", "dtype", "threads", "clock"])
        for name, seconds in medians.items():
            rate, ratio = round(given.tokens / seconds, 1), round(medians["bare"] / seconds, 3)
            layers = " ".join(map(str, given.layers))
            line = [given.name, layers, given.tokens, name, rate, ratio, dtype_name(dtype), given.threads, given.clock]
            table.writerow(line)
            log.info("%s", line)


if __name__ == "__main__":
    main()
