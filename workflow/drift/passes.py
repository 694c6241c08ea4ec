"""The two passes over the stores of one measurement; whatever they finish is kept, so that a killed job goes on behind it."""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from sae_core.kernels.backend import Backend
from sae_core.models.reading import Reader
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE
from workflow.config.drift import DriftConfig
from workflow.drift.kept_codes import CodesReader, CodesWriter
from workflow.drift.kinship import Candidates
from workflow.drift.lives import Life
from workflow.drift.relating import Related, Relation, Side, relate
from workflow.drift.streaming import Fixed, StoreResult, fixed_of, measure_store
from workflow.drift.views import KeptFirings, counted_views, named_firings
from workflow.formats.drift import BASE, NULL, REAL, Pair, named_tensors, needed_pairs, write_tensors
from workflow.formats.masks import RowPlan, open_store

log = logging.getLogger(__name__)
FIRINGS = "firings/"


class Stores(NamedTuple):
    """What both passes read."""

    stages: list[str]
    """Names, base first."""
    chains: list[str]
    shards: Mapping[str, list[Path]]
    """Manifests of the held-out shards by stage."""
    plan: RowPlan
    paired: bool
    """All stages hold the same tokens."""
    models: Mapping[tuple[str, str], SAE]
    """SAEs by (chain, stage), on `device`."""
    drift: DriftConfig
    device: torch.device
    backend: Backend
    scratch: Path

    @property
    def with_threshold(self) -> bool:
        """Whether S_0 has no thresholds of its own."""
        return isinstance(self.models[REAL, BASE], TopKSAE)

    def counts(self, stage: str) -> Path:
        """File of what the first pass found on the store of a stage."""
        return self.scratch / f"{stage}.safetensors"

    def codes(self, pair: Pair) -> Path:
        """Folder of the codes of a pair, which the first pass leaves for the second."""
        return self.scratch / "codes" / pair.name

    @property
    def firings(self) -> KeptFirings:
        """The counts of the first pass."""
        return KeptFirings({stage: self.counts(stage) for stage in self.stages}, self.models[REAL, BASE].config.d_sae)

    def kept(self, stage: str) -> int:
        """Rows of a store that count."""
        return int(self.plan.stages[stage].keep.sum())


def count_stores(given: Stores, advance: Callable[[int], None]) -> dict[str, Tensor]:
    """First pass: every SAE on every store that it is needed on; the sums that stay, while counts of latents wait on disk."""
    first = open_store(given.shards[BASE])
    fixed = fixed_of(first, given.plan.stages[BASE], given.models[REAL, BASE])
    tensors, readers = {"centre": fixed.centre}, {name: Reader(model, given.backend) for name, model in given.models.items()}
    for stage in given.stages:
        file, rows = given.counts(stage), given.plan.stages[stage]
        if file.exists():
            log.info("store %s was measured before", stage)
            advance(len(rows.keep))
        else:
            result = _count_store(given, stage, fixed, readers, advance)
            write_tensors(file, named_tensors(result.sums) | named_firings(result.firings))
        tensors |= _tensors(file, lambda name: not name.startswith(FIRINGS))
    return tensors


def _count_store(
    given: Stores, stage: str, fixed: Fixed, readers: Mapping[tuple[str, str], Reader], advance: Callable[[int], None]
) -> StoreResult:
    pairs = [pair for pair in needed_pairs(given.stages, given.chains) if pair.store_stage == stage]
    views = counted_views(given.stages, given.chains, given.with_threshold)
    with ExitStack() as closing:
        writers = {pair: closing.enter_context(CodesWriter(given.codes(pair))) for pair in pairs if _read_again(pair)}
        return measure_store(
            store=open_store(given.shards[stage]), rows=given.plan.stages[stage], n_prompts=len(given.plan.problems), fixed=fixed,
            saes={pair: readers[pair.chain, pair.sae_stage] for pair in pairs},
            counted=[view for view in views if view.pair.store_stage == stage], codes_of=writers,
            batch_rows=given.drift.batch_rows, device=given.device, advance=advance,
        )  # fmt: skip


def relate_stages(
    given: Stores, sums: Mapping[str, Tensor], lives: Mapping[tuple[str, str], Life],
    pairs: Mapping[tuple[str, str], Candidates], advance: Callable[[int], None],
) -> dict[tuple[str, str], Relation]:  # fmt: skip
    """Second pass: the SAEs of each stage behind base beside S_0, by (chain, stage).

    Args:
        given: stores and SAEs.
        sums: those of the first pass, from which the means of rows are taken.
        lives: by (chain, stage).
        pairs: latents to be compared, by (chain, stage).
        advance: told of rows.
    """
    found: dict[tuple[str, str], Relation] = {}
    for stage in given.stages[1:]:
        file = given.scratch / f"{stage}.relations.safetensors"
        if file.exists():
            log.info("stage %s was related before", stage)
            advance(given.kept(BASE) + given.kept(stage))
        else:
            related = {
                chain: Related(
                    given.models[chain, stage], torch.from_numpy(lives[chain, stage].alive).to(given.device),
                    torch.from_numpy(pairs[chain, stage].pairs).to(given.device), on_base=chain == NULL,
                ) for chain in given.chains
            }  # fmt: skip
            relations = relate(
                base=_side(given, BASE, stage, sums), stage=_side(given, stage, stage, sums), paired=given.paired,
                frozen=given.models[REAL, BASE], related=related, batch_rows=given.drift.batch_rows, device=given.device,
                advance=advance,
            )  # fmt: skip
            write_tensors(file, {f"{chain}/{field}": tensor for chain, one in relations.items() for field, tensor in _fields(one)})
        tensors = _tensors(file)
        found |= {(chain, stage): Relation(*(tensors[f"{chain}/{field}"] for field in Relation._fields)) for chain in given.chains}
    return found


def _read_again(pair: Pair) -> bool:
    """Whether the second pass needs the codes of a pair: SAEs on base and on their own stage, S_0 on every one."""
    return pair.store_stage in (BASE, pair.sae_stage) or pair.sae_stage == BASE


def _side(given: Stores, of: str, beside: str, sums: Mapping[str, Tensor]) -> Side:
    """The rows of the stage `of` with their codes by S_0 and by the SAEs of the stage `beside`."""

    def codes(chain: str, sae_stage: str) -> CodesReader:
        return CodesReader(given.codes(Pair(chain, sae_stage, of)), given.device)

    store = f"store/{of}/dropped/"
    mean = sums["centre"] + sums[f"{store}xc"].sum(0) / sums[f"{store}n"].sum()
    chains = [chain for chain in given.chains if of == BASE or chain != NULL]
    return Side(
        open_store(given.shards[of]), given.plan.stages[of], mean, codes(REAL, BASE),
        {chain: codes(chain, beside) for chain in chains},
    )  # fmt: skip


def _fields(relation: Relation) -> list[tuple[str, Tensor]]:
    return list(relation._asdict().items())


def _tensors(file: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys() if wanted(name)}  # noqa: SIM118  # no mapping
