"""What a policy predicts beside what base predicts, on the same texts."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.metrics.prompt_sums import sums_by_prompt
from workflow.formats.interventions import OUTPUTS, write_sums
from workflow.interventions.inputs import Reading, check_layer, check_traces, load_policy, place_of
from workflow.interventions.measuring import divergence, entropy, predicted
from workflow.interventions.texts import Texts, read_texts
from workflow.progress import Progress
from workflow.tail import Tail


def compare_outputs(
    *,
    traces: Path | str,
    traces_manifest: Path | str,
    model: Path | str,
    base: Path | str,
    sums: Path | str,
    manifest: Path | str,
    about: dict[str, str],
    reading: Reading,
    note: Callable[..., None] = lambda **facts: None,
) -> None:
    """Write the sums of π_t against π_0 and their manifest; `formats/interventions.py` says what they hold.

    Args:
        traces: traces.parquet of the text set as the policy reads it.
        traces_manifest: its manifest.
        model: transformers folder of the policy π_t.
        base: that of base, π_0.
        sums: sums.parquet.
        manifest: manifest.json.
        about: run, text and stage.
        reading: how texts are read.
        note: told of device and number format.

    Raises:
        ConfigError: a policy cannot read the texts, or there are fewer than two problems.
    """
    check_traces(traces, traces_manifest)
    place = place_of(reading)
    note(**place.facts())
    texts = read_texts(traces, reading.problems, reading.max_tokens)
    vocab = check_layer(model, 0).vocab
    now, before = (Tail(load_policy(folder, place, texts.traces, reading.max_tokens), 0) for folder in (model, base))
    found = _sums(now, before, texts, reading.batch_tokens, vocab)
    write_sums(sums, manifest, "outputs", _records(found, texts.problems), OUTPUTS, **about, problems=texts.problems)


@torch.inference_mode()
def _sums(now: Tail, before: Tail, texts: Texts, batch_tokens: int, vocab: int) -> Tensor:
    """Float64 [problem, column], the columns of `OUTPUTS` behind the problem."""
    total = torch.zeros(len(texts.problems), len(OUTPUTS) - 1, dtype=torch.float64)
    with Progress(len(texts.tokens), "compare outputs", "texts") as progress:
        for batch in texts.batches(batch_tokens, vocab, now.device):
            p, q = predicted(now, batch), predicted(before, batch)
            ce, ce_base = (-logprobs.gather(1, batch.targets[:, None])[:, 0] for logprobs in (p, q))
            values = [torch.ones_like(ce), ce, ce_base, divergence(p, q), divergence(q, p), entropy(p), entropy(q)]
            total += sums_by_prompt(torch.stack(values, 1), batch.prompt, len(texts.problems)).cpu()
            progress.advance(len(batch.ids))
    return total


def _records(sums: Tensor, problems: Sequence[str]) -> Iterator[dict[str, Any]]:
    names = OUTPUTS.names[1:]
    for problem, row in zip(problems, sums.tolist(), strict=True):
        yield {"problem": problem, **dict(zip(names, row, strict=True)), "tokens": int(row[0])}
