"""Tokens that go through the language model to explain latents: ours beside the per-latent procedures as published.

Token level, Neuron2Graph: for every latent all texts are encoded again to find its 20 strongest rows; of each row the context
grows by one token at a time until it is enough, every token of it is replaced in turn, and each substitute of an important
token is a text of its own with the same replacements. Step level, the SSAE paper's code: all steps are encoded again for
every latent, 50 of them; of its strongest steps ends grow by one token and every token is replaced in turn. At the token level
all run here for real, one text at a time where published. At the step level what the published code reads anew to the same
activations, all steps for every latent and windows that come again, is counted and not run again.

    python benchmarks/bench_n2g.py RESULTS [--latents 4] [--step-latents 50] [--layer 10] [--ssae MANIFEST]

RESULTS is the folder `results` of a finished default run; its rows of base, SAE and step-level SAE are read. Latents of an SSAE
that are active on no step are left out, for the published code would encode all steps for nothing. MANIFEST: of another SSAE.
"""

import argparse
import csv
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from workflow.config.n2g import N2gConfig, StepN2gConfig
from workflow.formats.activations import RowFilter
from workflow.formats.saes import read_sae
from workflow.formats.shards import DTYPES
from workflow.formats.step_saes import BASE
from workflow.formats.steps import FILE, StepStore
from workflow.language_model import load_model, load_tokenizer, model_facts
from workflow.n2g.contexts import with_prefix
from workflow.n2g.encoding import Firings, firings_of
from workflow.n2g.inputs import Rows, open_rows
from workflow.n2g.mining import Mine, mine_latents
from workflow.n2g.published_steps import Limits, enough
from workflow.n2g.step_methods import mine_patterns
from workflow.n2g.step_parts import BATCH_TOKENS, Part, codes_of, ranked
from workflow.n2g.step_windows import StepReader
from workflow.n2g.suggesting import Neighbours
from workflow.n2g.vocabulary import vocabulary
from workflow.n2g.windows import Asked, Window, WindowReader, mean_embedding
from workflow.step_saes import stored_step_sae
from workflow.step_tokens import step_tokenizer

log = logging.getLogger("bench_n2g")
RESULTS = Path(__file__).resolve().parent / "results" / "n2g.csv"
KEEP = RowFilter(1, 10.0)
SKIP, LONGEST, TOP, SUBSTITUTES, IMPORTANT, FIXED = 1, 30, 20, 5, 0.8, 1
"""Of Neuron2Graph: tokens of a context, rows of a latent, substitutes of a token, what makes it important, the replacement."""


class Policy:
    """What the token level reads of a finished run."""

    def __init__(self, results: Path, layer: int) -> None:
        self.folder, self.layer = results / "policies/shared/base/model", layer
        self.rows: Rows = open_rows([results / f"activations/shared/fixed/base/layer_{layer}/hop_0/shard_000.json"], KEEP)
        self.sae = read_sae(results / f"saes/shared/fixed/topk/real/seed_0/base/layer_{layer}/manifest.json").model
        self.model = load_model(self.folder, torch.device("cpu"), torch.float32)
        self.words = vocabulary(load_tokenizer(self.folder), model_facts(self.folder).vocab)

    def reader(self, latents: Sequence[int], mean: bool) -> WindowReader:
        """Of some latents."""
        return WindowReader(
            model=self.model, layer=self.layer, sae=self.sae, latents=latents, stored=DTYPES[self.rows.store.manifests[0]["dtype"]],
            batch_tokens=2048, mean=mean_embedding(self.model, self.rows.text.tokens) if mean else None,
        )  # fmt: skip

    def firings(self, latents: Sequence[int]) -> list[Firings]:
        """Where they fire, from the store."""
        return firings_of(self.rows.store, self.rows.text, self.sae, latents, sample_rows=10**9, candidates=TOP)


def published_tokens(policy: Policy, latents: Sequence[int]) -> int:
    """Neuron2Graph as published, a text at a time; the tokens that it read."""
    text, tokens = policy.rows.text, 0
    starts = [*np.flatnonzero(text.pos == 0).tolist(), len(text.pos)]
    neighbours = Neighbours(policy.model, text.tokens)
    for latent, firings in zip(latents, policy.firings(latents), strict=True):
        with policy.reader([latent], mean=False) as reader:
            for first, last in pairwise(starts):
                reader.read([Asked(tuple(text.tokens[first:last].tolist()), (last - first - 1,))])
            for row, value in zip(firings.top.tolist(), firings.top_values.tolist(), strict=True):
                ids, front = _grown(reader, policy, row, float(value))
                shares = _replaced(reader, ids, front)
                for at in np.flatnonzero(shares >= IMPORTANT).tolist():
                    for other in neighbours([(ids, front + at)], SUBSTITUTES)[0]:
                        _replaced(reader, (*ids[: front + at], other, *ids[front + at + 1 :]), front)
            tokens += reader.tokens
    return tokens


def _grown(reader: WindowReader, policy: Policy, row: int, value: float) -> tuple[Window, int]:
    room = min(LONGEST, int(policy.rows.text.pos[row]))
    for length in range(1, room + 1):
        ids, front = with_prefix(policy.rows.text, row - length + 1, row, SKIP)
        if reader.read([Asked(ids, (len(ids) - 1,))])[0][0, 0] >= 0.5 * value or length == room:
            break
    return ids, front


def _replaced(reader: WindowReader, ids: Window, front: int) -> np.ndarray:
    """1 − activation without each token / activation; every text by itself."""
    windows = [ids, *((*ids[:at], FIXED, *ids[at + 1 :]) for at in range(front, len(ids)))]
    whole, *left = (float(reader.read([Asked(one, (len(ids) - 1,))])[0][0, 0]) for one in windows)
    return 1 - np.array(left) / max(whole, 1e-9)


def our_tokens(policy: Policy, latents: Sequence[int]) -> int:
    """The default settings; rows come from the store."""
    text, settings = policy.rows.text, N2gConfig()
    with policy.reader(latents, mean=True) as reader:
        mine = Mine(text, len(text.pos), policy.words, SKIP)
        mine_latents(reader, mine, latents, policy.firings(latents), settings, Neighbours(policy.model, text.tokens))
        return reader.tokens


def step_tokens(results: Path, manifest: Path, most: int) -> Iterator[tuple[str, int, Callable[[], int], int]]:
    """Both procedures at the level of steps, for how many latents, and the steps they read."""
    model, _ = stored_step_sae(manifest)
    tokenizer = step_tokenizer(manifest.with_name(BASE))
    backend = tokenizer.tokenizer
    with StepStore(results / "ssae/steps/shared/fixed/base" / FILE) as store:
        split = store.of_step("split")
        part, held_out = (Part(store, np.flatnonzero(split == name)) for name in (b"train", b"test"))
        sequences, read = [part.sequence(step) for step in range(len(part))], int(part.lengths().sum())
        found = codes_of(model, part)
        sums = np.asarray(found.sum(axis=0)).ravel()
        every = np.argsort(-sums, kind="stable")[: min(most, int((sums > 0).sum()))]
        latents = len(every)
        codes = found[:, every].toarray()
        text: Any = lambda token: backend.decode([token])  # noqa: E731  # a name for it says what it does

        def published() -> int:
            windows = (
                _published_windows(model, every.tolist(), at, sequences, ranked(codes[:, at], 0.0), backend.pad_token_id, text)
                for at in range(latents)
            )
            return read + sum(read + tokens for tokens in windows)  # all steps once to choose latents, and again for each

        def ours() -> int:
            reader = StepReader(model, every.tolist(), BATCH_TOKENS)
            silent, words = np.zeros((len(held_out), latents), dtype=bool), vocabulary(backend, tokenizer.vocab)
            mine_patterns(reader, every, codes, silent, part, held_out, tokenizer, words, StepN2gConfig(latents=latents), 0)
            return read + reader.tokens

        yield "published", latents, published, len(part)
        yield "saedrift", latents, ours, len(part)


def _published_windows(
    model: Any, every: Sequence[int], at: int, sequences: Sequence[Window], strongest: Any, pad: int, text: Any
) -> int:
    """Tokens of the windows of one latent, each as often as the published code runs it; run once here."""
    patterns, tokens, reader = set(), 0, StepReader(model, every, BATCH_TOKENS)
    for step, value in strongest:
        for length in range(1, len(sequences[step]) + 1):
            ids = sequences[step][-length:]
            tokens += length
            if enough(float(reader.read([ids])[0][at]), value, 0.5):
                break
        masked = [(*ids[:place], pad, *ids[place + 1 :]) for place in range(len(ids))]
        tokens += sum(map(len, masked))
        left = reader.read(masked)
        patterns.add(tuple(
            "*" if enough(float(values[at]), value, 0.5) else text(token) for token, values in zip(ids, left, strict=True)
        ))  # fmt: skip
        if len(patterns) == Limits().patterns:
            break
    return tokens


def main() -> None:
    """Run both and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--latents", type=int, default=4)
    parser.add_argument("--step-latents", type=int, default=50)
    parser.add_argument("--layer", type=int, default=10)
    parser.add_argument("--ssae", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    policy = Policy(given.results, given.layer)
    rate = read_sae(given.results / f"saes/shared/fixed/topk/real/seed_0/base/layer_{given.layer}/manifest.json").extras[
        "firing_rate"
    ]
    fires = np.flatnonzero(rate.numpy() > 0.005)
    latents = np.random.default_rng(0).permutation(fires)[: given.latents].tolist()
    texts = int((policy.rows.text.pos == 0).sum())
    runs = [("rows", "published", given.latents, lambda: published_tokens(policy, latents), texts),
            ("rows", "saedrift", given.latents, lambda: our_tokens(policy, latents), texts)]  # fmt: skip
    ssae = given.ssae or given.results / "ssae/models/shared/real/seed_0/base/manifest.json"
    of_steps = (("steps", *one) for one in step_tokens(given.results, ssae, given.step_latents))
    rows: list[dict[str, Any]] = []
    for level, name, count, run, of in chain(runs, of_steps):
        started = time.process_time()
        tokens = run()
        row = {"level": level, "procedure": name, "latents": count, "texts": of, "forward_tokens": tokens}
        counted = (level, name) == ("steps", "published")  # not all of it was run: its time says nothing
        row |= {"tokens_per_latent": round(tokens / count)}
        row |= {"processor_seconds": "" if counted else round(time.process_time() - started, 1)}
        rows.append(row | {"times_fewer": round(rows[-1]["forward_tokens"] / tokens, 1) if name == "saedrift" else ""})
        log.info("%s", rows[-1])
    with RESULTS.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
