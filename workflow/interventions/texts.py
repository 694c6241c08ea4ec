"""The texts that are read, which of their positions may be replaced, and which of their tokens are predicted."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workflow.batching import batches, padded
from workflow.config.section import ConfigError
from workflow.formats.activations import Store
from workflow.formats.traces import Trace, read_traces

SPLIT = "test"
PREDICTED_NUMBERS = 1 << 25
"""Log-probabilities that one batch may hold, 128 MB of float32: a large vocabulary makes batches smaller."""


class Batch(NamedTuple):
    """Texts of one pass."""

    ids: Tensor
    """[text, token], padded on the right."""
    replaced: Tensor
    """Bool [text, token]: positions whose residual may be replaced; never a padded one, never a sink."""
    places: Tensor
    """[prediction]: places in the flattened [text · token] from which the tokens of the responses are predicted."""
    targets: Tensor
    """[prediction]: those tokens."""
    prompt: Tensor
    """[prediction]: index of each one's problem."""


class Texts(NamedTuple):
    """Texts of some problems."""

    problems: list[str]
    """Sorted: the axis `prompt` of all sums."""
    traces: list[Trace]
    tokens: list[np.ndarray]
    """Token ids of each, cut at activations.max_tokens."""
    kept: list[np.ndarray] | None
    """Bool per token of each text: what the row filter keeps; None where nothing is replaced."""

    def batches(self, batch_tokens: int, vocab: int, device: torch.device) -> Iterator[Batch]:
        """The texts in passes of like length, long ones first; every text is in one of them."""
        limit = max(1, min(batch_tokens, PREDICTED_NUMBERS // vocab))
        index = {problem: place for place, problem in enumerate(self.problems)}
        lengths = list(map(len, self.tokens))
        for chosen in batches(range(len(lengths)), lengths, limit):
            ids = padded([self.tokens[text] for text in chosen])
            replaced = np.zeros(ids.shape, bool)
            places, prompts = [], []
            for row, text in enumerate(chosen):
                if self.kept is not None:
                    replaced[row, : lengths[text]] = self.kept[text]
                first = max(1, self.traces[text].prompt_tokens)  # nothing predicts the first token of a text
                places.append(row * ids.shape[1] + np.arange(first, lengths[text]))
                prompts += [index[self.traces[text].problem]] * len(places[-1])
            predicted = np.concatenate(places)
            arrays = (ids, replaced, predicted - 1, ids.reshape(-1)[predicted], np.asarray(prompts, np.int64))
            yield Batch(*(torch.from_numpy(array).to(device) for array in arrays))


def read_texts(traces: Path | str, problems: int, max_tokens: int, store: Store | None = None) -> Texts:
    """Texts of the problems of the split `test` with the lowest ranks, a random sample of it.

    Args:
        traces: traces.parquet of the text set.
        problems: how many problems; fewer where there are not as many.
        max_tokens: longer texts are cut there.
        store: rows of the same policy on the same text, opened with the row filter.

    Raises:
        ConfigError: fewer than two problems, no response token, or a store of other texts.
    """
    chosen = [trace for trace in read_traces(traces, [SPLIT]) if trace.rank < problems]
    names = sorted({trace.problem for trace in chosen})
    if len(names) < 2:
        raise ConfigError(
            f"Interventions must be measured on at least 2 problems, their spread is the uncertainty; {traces} has {len(names)} of "
            f"rank below {problems} in the split {SPLIT}. Raise interventions.problems or problems.splits.test."
        )
    tokens = [np.asarray(trace.token_ids[:max_tokens]) for trace in chosen]
    told = {trace.problem for trace, ids in zip(chosen, tokens, strict=True) if len(ids) > max(1, trace.prompt_tokens)}
    if silent := [name for name in names if name not in told]:
        raise ConfigError(
            f"Every problem must have a response token within {max_tokens} tokens; {silent[0]} has none in {traces}. "
            "Raise activations.max_tokens."
        )
    return Texts(names, chosen, tokens, None if store is None else _kept(chosen, tokens, store))


def _kept(traces: Sequence[Trace], tokens: Sequence[np.ndarray], store: Store) -> list[np.ndarray]:
    """Which tokens of each text the store's row filter keeps."""
    rows = store.rows
    codes = rows["trace"].cat.codes.to_numpy()
    order = np.argsort(codes, kind="stable")
    place = {name: code for code, name in enumerate(rows["trace"].cat.categories)}
    starts = np.searchsorted(codes[order], np.arange(len(place) + 1))
    pos, token = rows["pos"].to_numpy(), rows["token"].to_numpy()
    found = []
    for trace, ids in zip(traces, tokens, strict=True):
        kept = np.zeros(len(ids), bool)
        if trace.trace in place:
            mine = order[starts[place[trace.trace]] : starts[place[trace.trace] + 1]]
            if len(mine) and (pos[mine].max() >= len(ids) or (ids[pos[mine]] != token[mine]).any()):
                raise ConfigError(
                    f"The store must hold rows of the texts that are read; the tokens of trace {trace.trace} differ. "
                    "Extract the store again."
                )
            kept[pos[mine]] = True
        found.append(kept)
    if not any(kept.any() for kept in found):
        raise ConfigError(
            "The store must hold rows of the texts that are read; it has none of them. Extract the store from the same traces."
        )
    return found
