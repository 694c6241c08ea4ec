"""One block of traces through the policy and all coders: features of its steps at every layer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from workflow.batching import batches, padded
from workflow.formats.step_features import StepBlock
from workflow.formats.step_labels import KEYS
from workflow.formats.traces import Trace
from workflow.probes.coders import Coder
from workflow.probes.pooling import LAST, MEAN, DenseSteps, SparseSteps, Tokens
from workflow.probes.predicting import Logprobs, logprobs, of_steps
from workflow.probes.surface import Surface, surface
from workflow.residuals import ResidualReader
from workflow.tail import Tail
from workflow.trace_steps import TraceStep, step_keys


class CutTrace(NamedTuple):
    """A trace with its steps."""

    trace: Trace
    steps: list[TraceStep]
    group: str


class LayerPlan(NamedTuple):
    """What is made of the rows of one layer."""

    layer: int
    coders: list[Coder]
    skip_positions: int
    largest_norm: float
    """Rows that are longer are left aside, as those of the skipped positions."""


class Policy(NamedTuple):
    """The model that reads."""

    reader: ResidualReader
    tail: Tail
    d_model: int
    vocab: int


def blocks_of(traces: Iterable[CutTrace], block_tokens: int) -> Iterator[list[CutTrace]]:
    """Traces in their order, of at most `block_tokens` tokens per block, or one longer trace."""
    block: list[CutTrace] = []
    tokens = 0
    for one in traces:
        length = len(one.trace.token_ids)
        if block and tokens + length > block_tokens:
            yield block
            block, tokens = [], 0
        block.append(one)
        tokens += length
    if block:
        yield block


class Placed(NamedTuple):
    """The tokens of the steps of a pass."""

    flat: np.ndarray
    """Place of each in the padded ids."""
    positions: np.ndarray
    """Place of each in its trace."""
    steps: np.ndarray
    """Step of each in the block, rising."""


def read_block(
    policy: Policy, block: Sequence[CutTrace], plans: Sequence[LayerPlan], batch_tokens: int, advance: Callable[[int], None]
) -> tuple[list[StepBlock], list[int]]:
    """Features of the steps of a block at each layer, and steps without a row that counts.

    Every trace is read as a whole in one pass: no token sees what stands behind it, so no step does.
    """
    first = np.cumsum([0, *(len(one.steps) for one in block)])
    layers = [_Layer(plan, int(first[-1]), policy.d_model) for plan in plans]
    probable = np.zeros((int(first[-1]), len(Logprobs._fields)), np.float32)
    lengths = [len(one.trace.token_ids) for one in block]
    for chosen in batches(range(len(block)), lengths, batch_tokens):
        chosen = sorted(chosen)
        ids = torch.from_numpy(padded([block[text].trace.token_ids for text in chosen])).to(policy.reader.device)
        place = _placed([block[text] for text in chosen], first[chosen], ids.shape[1])
        if not len(place.flat):
            continue
        read, states = policy.reader.read_to_the_end(ids)
        flat = torch.from_numpy(place.flat).to(ids.device)
        before = states.flatten(0, 1).index_select(0, flat - 1)
        values = logprobs(policy.tail, before, ids.flatten()[flat], policy.vocab)
        tokens = Tokens(place.steps)
        probable[tokens.present] = of_steps(values, tokens)
        for layer, rows in zip(layers, read, strict=True):
            layer.add(rows.flatten(0, 1).index_select(0, flat).float(), place)
        advance(sum(lengths[text] for text in chosen))
    shared = {"logprob": probable, "surface": np.concatenate([surface(one.trace, one.steps) for one in block])}
    keys = _keys(block)
    return [StepBlock(keys, layer.sets() | shared) for layer in layers], [layer.without for layer in layers]


def facts_of_sets(plan: LayerPlan) -> dict[str, dict[str, Any]]:
    """Attributes of the sets of one layer, by name."""
    found: dict[str, dict[str, Any]] = {f"dense.{how}": {"pooling": how} for how in (LAST, MEAN)}
    for coder in plan.coders:
        found |= {f"{coder.name}.{how}": {**coder.facts, "pooling": how} for how in coder.pooling}
        if coder.rest:
            found |= {f"sae_error.{coder.rest}.{how}": {**coder.facts, "pooling": how} for how in (LAST, MEAN)}
            found |= {f"sae_reconstruction.{coder.rest}.{LAST}": {**coder.facts, "pooling": LAST}}
    columns: Mapping[str, tuple[str, ...]] = {"logprob": Logprobs._fields, "surface": Surface._fields}
    return found | {name: {"columns": ",".join(names)} for name, names in columns.items()}


class _Layer:
    """Everything that is made of the rows of one layer."""

    def __init__(self, plan: LayerPlan, steps: int, d_model: int) -> None:
        self._plan, self._seen = plan, np.zeros(steps, bool)
        self._dense = DenseSteps(steps, d_model, (LAST, MEAN))
        self._codes = [SparseSteps(steps, coder.width, coder.pooling) for coder in plan.coders]
        self._errors = [DenseSteps(steps, d_model, (LAST, MEAN)) for _ in plan.coders]
        self._rebuilt = [DenseSteps(steps, d_model, (LAST,)) for _ in plan.coders]

    @property
    def without(self) -> int:
        """Steps that had no row that counts."""
        return int((~self._seen).sum())

    @torch.inference_mode()
    def add(self, rows: Tensor, place: Placed) -> None:
        """Rows [token, d_model] float32 of a pass."""
        short = torch.linalg.vector_norm(rows, dim=1).cpu().numpy() <= self._plan.largest_norm
        kept = np.flatnonzero(short & (place.positions >= self._plan.skip_positions))
        if not len(kept):
            return
        rows, tokens = rows[torch.from_numpy(kept).to(rows.device)], Tokens(place.steps[kept])
        self._seen[tokens.present] = True
        self._dense.add(rows, tokens)
        for coder, codes, errors, rebuilt in zip(self._plan.coders, self._codes, self._errors, self._rebuilt, strict=True):
            found = coder.reader.encode(rows)
            codes.add(found, tokens)
            if coder.rest:
                again = coder.reader.sae.decode(found, rows)
                errors.add(rows - again, tokens)
                rebuilt.add(again, tokens)

    def sets(self) -> dict[str, Any]:
        """All sets of the layer."""
        found: dict[str, Any] = {f"dense.{how}": matrix for how, matrix in self._dense.matrices().items()}
        for coder, codes, errors, rebuilt in zip(self._plan.coders, self._codes, self._errors, self._rebuilt, strict=True):
            found |= {f"{coder.name}.{how}": matrix for how, matrix in codes.matrices().items()}
            if coder.rest:
                found |= {f"sae_error.{coder.rest}.{how}": matrix for how, matrix in errors.matrices().items()}
                found |= {f"sae_reconstruction.{coder.rest}.{how}": matrix for how, matrix in rebuilt.matrices().items()}
        return found


def _placed(texts: Sequence[CutTrace], first: np.ndarray, width: int) -> Placed:
    spans = [
        (row * width, int(begin) + step.number, step.begin, step.end)
        for row, (one, begin) in enumerate(zip(texts, first, strict=True))
        for step in one.steps
    ]
    positions = [np.arange(begin, end) for *_, begin, end in spans] or [np.empty(0, np.int64)]
    lengths = [end - begin for *_, begin, end in spans]
    where = np.concatenate(positions)
    return Placed(
        where + np.repeat([start for start, *_ in spans], lengths).astype(np.int64), where,
        np.repeat([step for _, step, *_ in spans], lengths).astype(np.int64),
    )  # fmt: skip


def _keys(block: Sequence[CutTrace]) -> dict[str, list[Any]]:
    rows = [step_keys(one.trace, step, one.group) for one in block for step in one.steps]
    return {name: [row[name] for row in rows] for name in KEYS.names}
