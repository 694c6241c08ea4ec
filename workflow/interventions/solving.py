"""Problems solved by a policy with SAEs in the place of its rows, beside what it answers as it is."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from workflow.answers import grade
from workflow.config.section import ConfigError
from workflow.devices import choose_device, choose_dtype
from workflow.formats.activations import RowFilter, damage_set_aside
from workflow.formats.files import remove_scratch, scratch_folder
from workflow.formats.interventions import NOTHING, SOLVING, write_sums
from workflow.formats.parquet import read_table, write_records
from workflow.formats.traces import Trace, read_traces
from workflow.interventions.decoding_rows import RowsReplaced
from workflow.interventions.inputs import Place, check_layer, check_traces, load_policy, open_rows, open_saes
from workflow.interventions.measuring import Replace
from workflow.interventions.replacing import ablations, reconstruction
from workflow.interventions.splicing import SpliceCell
from workflow.interventions.texts import SPLIT
from workflow.language_model import load_tokenizer
from workflow.progress import Progress
from workflow.residuals import check_length
from workflow.sampling import Sampled, SamplingSettings, TransformersEngine


class Writing(NamedTuple):
    """How answers are written."""

    problems: int
    """Problems of the test split."""
    max_new_tokens: int
    """Longest response."""
    batch: int
    """Problems solved together."""


def solve_spliced(
    *, traces: Path | str, traces_manifest: Path | str, model: Path | str, shards: Sequence[Path | str],
    saes: Mapping[str, Path | str], sums: Path | str, manifest: Path | str, cell: SpliceCell, keep: RowFilter,
    ablated: Sequence[str], writing: Writing, device: str, dtype: str, key: str,
    note: Callable[..., None] = lambda **facts: None,
) -> None:  # fmt: skip
    """Write the graded answers of one policy and their manifest; `formats/interventions.py` says what they hold.

    Decoding is greedy. What every intervention wrote is kept beside `sums` until all are done.

    Args:
        traces: traces.parquet of the text set as this policy reads it: the prompts and gold answers are taken from there.
        traces_manifest: its manifest.
        model: transformers folder of the policy.
        shards: manifests of the policy's held-out shards on this text and layer, for the median norm and the mean row.
        saes: manifests of SAEs by what they are here, `real`, `frozen` or `null`.
        sums: sums.parquet.
        manifest: manifest.json.
        cell: what is measured.
        keep: the row filter; rows that it drops are never replaced.
        ablated: `mean`, `zero`.
        writing: how many problems, and how long the answers.
        device: compute.device.
        dtype: compute.dtype.
        key: digest of settings, code and inputs.
        note: told of device and number format.

    Raises:
        ConfigError: SAEs, rows, prompts and policy do not belong together, fewer than two problems, or the hook changes what is
            written where it puts nothing else in the place of a row.
    """
    check_traces(traces, traces_manifest)
    facts, where = check_layer(model, cell.layer), choose_device(device)
    place = Place(where, choose_dtype(dtype, where))
    note(**place.facts())
    asked = prompts(traces, writing.problems)
    with damage_set_aside():
        store = open_rows(shards, keep, cell.layer, facts.d_model)
        stored = open_saes(saes, store, {"kind": cell.kind, "seed": cell.seed, "layer": cell.layer})
        replacements = dict(ablations(list(ablated), store, place.device))
    puts: dict[str, Replace | None] = {NOTHING: None}
    puts |= {name: reconstruction(sae.model.to(place.device)) for name, sae in stored.items()} | replacements
    policy = load_policy(model, place, asked, max(one.prompt_tokens for one in asked))
    check_length(max(one.prompt_tokens for one in asked) + writing.max_new_tokens, policy)
    solver = Solver(policy, Path(model), cell.layer, keep, store.median_norm, writing)
    solver.must_change_nothing(asked[: writing.batch])
    scratch = scratch_folder(sums, key)
    pieces = {put: scratch / f"{put}.parquet" for put in puts}
    with Progress(len(asked) * len(puts), "solving", "answers") as progress:
        for put, replace in puts.items():
            if not pieces[put].is_file():
                write_records(pieces[put], solver.answers(asked, put, replace), SOLVING)
            progress.advance(len(asked))
    records = [record for piece in pieces.values() for record in read_table(piece, SOLVING).to_pylist()]
    digests = {name: sae.facts["digest"] for name, sae in stored.items()}
    about = cell._asdict() | {"problems": sorted(one.problem for one in asked), "saes": digests, "median_norm": store.median_norm}
    write_sums(sums, manifest, "solving", records, SOLVING, **about, max_new_tokens=writing.max_new_tokens)
    remove_scratch(scratch)


def prompts(traces: Path | str, problems: int) -> list[Trace]:
    """One trace of each of the problems of the split `test` with the lowest ranks, for its prompt and gold answer.

    Raises:
        ConfigError: fewer than two problems.
    """
    first: dict[str, Trace] = {}
    for trace in read_traces(traces, [SPLIT]):
        if trace.rank < problems:
            first.setdefault(trace.problem, trace)
    if len(first) < 2:
        raise ConfigError(
            f"At least 2 problems must be solved, their spread is the uncertainty; {traces} has {len(first)} of rank below "
            f"{problems} in the split {SPLIT}. Raise interventions.solving.problems or problems.splits.test."
        )
    return [first[name] for name in sorted(first)]


class Solver:
    """One policy that answers greedily, as it is or with other rows at a layer."""

    def __init__(
        self, policy: PreTrainedModel, folder: Path, layer: int, keep: RowFilter, median_norm: float, writing: Writing
    ) -> None:
        """`folder` holds the tokenizer; `median_norm` is that of the policy's rows at the layer."""
        self._policy, self._layer, self._keep, self._median = policy, layer, keep, median_norm
        self._tokenizer = load_tokenizer(folder)
        self._engine = TransformersEngine(policy, self._tokenizer)
        self._how = SamplingSettings(0.0, 1.0, writing.max_new_tokens, writing.batch, 0)

    def write(self, asked: Sequence[Trace], replace: Replace | None) -> list[Sampled]:
        """The response to each prompt; None lets the policy be."""
        hook = (
            contextlib.nullcontext()
            if replace is None
            else RowsReplaced(self._policy, self._layer, replace, self._keep, self._median)
        )
        with hook:
            given = [one.token_ids[: one.prompt_tokens] for one in asked]
            return self._engine.sample(given, [one.problem for one in asked], self._how)

    def answers(self, asked: Sequence[Trace], put: str, replace: Replace | None) -> Iterator[dict[str, Any]]:
        """A row of `SOLVING` for each problem."""
        for one, sampled in zip(asked, self.write(asked, replace), strict=True):
            text = self._tokenizer.decode(sampled.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            graded = grade(str(text), one.gold)._asdict()
            yield {
                "put": put, "problem": one.problem, **graded, "finished": sampled.finished, "tokens": len(sampled.tokens),
                "response": text,
            }  # fmt: skip

    def must_change_nothing(self, asked: Sequence[Trace]) -> None:
        """Refuse a hook that changes what is written although it puts every row back as it was.

        Raises:
            ConfigError: with the first problem that is answered otherwise.
        """
        plain, again = self.write(asked, None), self.write(asked, lambda rows: rows)
        for one, before, after in zip(asked, plain, again, strict=True):
            if before.tokens != after.tokens:
                raise ConfigError(
                    f"A policy whose rows are put back as they are must write the same tokens; problem {one.problem} is answered "
                    "otherwise. The blocks of this architecture are not to be hooked: set interventions.solving.problems=0."
                )
