"""What one crosscoder says of each later stage: classes of its latents, with intervals by prompt, on rows it never saw."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_core.kernels.codes import Codes
from sae_core.metrics.reconstruction import ReconstructionSums, mean_l0, nmse, reconstruction_sums
from sae_core.metrics.stage_scaling import (
    CLASSES,
    Decoders,
    Limits,
    Presence,
    StageSums,
    classes,
    decoders_of,
    presence,
    stage_sums,
)
from sae_core.models.crosscoder import Crosscoder
from workflow.config.drift import DriftConfig
from workflow.config.section import ConfigError
from workflow.devices import choose_device
from workflow.drift.inputs import Cell, stores_by_stage
from workflow.drift.joint_store import JointRows, open_joint_rows
from workflow.formats.activations import RowFilter, damage_set_aside
from workflow.formats.crosscoders import read_crosscoder
from workflow.formats.drift_columns import Estimate
from workflow.formats.files import file_digest
from workflow.formats.joint_columns import CrosscoderLatent, CrosscoderStage
from workflow.formats.manifest import write_manifest
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.statistics import interval, multiplicities

BATCH_ROWS = 2048
REPLICATES_AT_ONCE = 100
MEASURED = "crosscoder_measured"


class Measured(NamedTuple):
    """Sums over held-out rows, per prompt, on the CPU."""

    reconstruction: list[ReconstructionSums]
    """Of every stage, in its normalised units."""
    beside_base: list[StageSums]
    """Of every later stage."""


def measure_crosscoder(
    *, crosscoder: Path | str, stores: Sequence[Path | str], stages: Path | str, latents: Path | str, manifest: Path | str,
    keep: RowFilter, drift: DriftConfig, device: str, note: Callable[..., None] = lambda **facts: None,
) -> None:  # fmt: skip
    """Write `stages` (rows of `CrosscoderStage`, without KL), `latents` (rows of `CrosscoderLatent`) and `manifest`.

    Args:
        crosscoder: manifest of the crosscoder.
        stores: manifests of the held-out shards of every stage.
        stages: stages.parquet.
        latents: latents.parquet.
        manifest: measured.json.
        keep: the row filter.
        drift: bootstrap, what makes a latent alive, and where classes begin.
        device: `auto`, `cpu` or `cuda`.
        note: told of the device.

    Raises:
        ConfigError: the held-out problems are not those that the crosscoder was kept from, rows are unpaired, or a shard is
            damaged; that shard is then set aside, so that the next run builds it anew.
    """
    place = choose_device(device)
    note(device=str(place))
    model, facts = read_crosscoder(crosscoder)
    cell = Cell(facts["run"], facts["text"], "", facts["seed"], facts["layer"])
    shards = stores_by_stage(stores, cell, [name for name, _ in facts["stages"]])
    with damage_set_aside():
        rows = open_joint_rows(shards, keep, facts["train_share"])
        if rows.problems != facts["problems"]:
            raise ConfigError(
                "A crosscoder must be measured on the problems that it was kept from; the stores divide otherwise now. "
                f"Train it again: delete {crosscoder}."
            )
        measured = _measured(model.to(place), rows)
    counted = [_Stage(model.cpu(), facts, number, measured, drift) for number in range(1, len(facts["stages"]))]
    write_parquet(stages, arrow_table([one.row() for one in counted], CrosscoderStage))
    write_parquet(latents, arrow_table([row for one in counted for row in one.latents()], CrosscoderLatent))
    digests = {"digest": file_digest(stages), "latents_digest": file_digest(latents)}
    write_manifest(manifest, MEASURED, **{name: facts[name] for name in ("run", "text", "seed", "layer")}, **digests)


@torch.no_grad()
def _measured(model: Crosscoder, rows: JointRows) -> Measured:
    """One pass over the held-out rows; each batch is summed over the few prompts that it holds."""
    config, device, prompts = model.config, model.W_enc.device, len(rows.problems)
    reconstruction = [ReconstructionSums.zeros(prompts, config.width) for _ in range(config.stages)]
    shapes = ((config.d_sae,), (config.d_sae,), (config.d_sae, 2), (config.d_sae, 2))
    beside = [StageSums(*(torch.zeros(prompts, *shape, dtype=torch.float64) for shape in shapes)) for _ in range(config.stages - 1)]
    for batch, where in rows.held_out.sequential(BATCH_ROWS):
        x, (here, local) = batch.to(device), torch.unique(rows.prompt[where], return_inverse=True)
        local, codes = local.to(device), model.encode(x)
        for stage, sums in enumerate(_reconstructions(model, x, codes, local, len(here))):
            _add(reconstruction[stage], sums, here)
        for stage, found in enumerate(beside, start=1):
            _add(found, stage_sums(model, x, local, len(here), stage, codes), here)
    return Measured(reconstruction, beside)


def _reconstructions(model: Crosscoder, x: Tensor, codes: Codes, prompt: Tensor, prompts: int) -> Iterator[ReconstructionSums]:
    config = model.config
    scaled, x_hat = model.normalised(x).rows, model.decode(codes) / model.scale
    targets, found = (rows.view(len(x), config.stages, config.width).unbind(1) for rows in (scaled, x_hat))
    for target, rows, centre in zip(targets, found, model.b_dec.double().view(config.stages, -1), strict=True):
        yield reconstruction_sums(target, rows, prompt, prompts, centre, codes.active_per_row())


def _add(sums: ReconstructionSums | StageSums, batch: ReconstructionSums | StageSums, prompts: Tensor) -> None:
    """Add the sums of a batch to those of its prompts, in place."""
    for mine, theirs in zip(sums, batch, strict=True):
        mine[prompts] += theirs.cpu()


class _Stage:
    """A later stage of a crosscoder: its classes at the point and in every replicate."""

    def __init__(self, model: Crosscoder, facts: Mapping[str, Any], number: int, measured: Measured, drift: DriftConfig) -> None:
        settings = drift.crosscoder
        self.model, self.facts, self.number, self.measured, self.drift = model, facts, number, measured, drift
        self.sums = measured.beside_base[number - 1]
        self.decoders: Decoders = decoders_of(model, number)
        self.limits = Limits(settings.exclusive, settings.rotated_cosine, settings.error_ratio, settings.reconstruction_ratio)
        drawn = multiplicities(len(facts["problems"]), drift.replicates, drift.seed)
        self.weights = torch.from_numpy(np.vstack([np.ones((1, drawn.shape[1]), drawn.dtype), drawn])).double()

    def row(self) -> CrosscoderStage:
        """The row of the table, KL left open."""
        (stage, update), facts = self.facts["stages"][self.number], self.facts
        counts = self._counts()
        changed = counts["rotated"] + counts["new_confirmed"] + counts["gone_confirmed"]
        errors = [nmse(self.measured.reconstruction[place], self.weights) for place in (0, self.number)]
        named: dict[str, Any] = {name: facts[name] for name in ("run", "text", "layer", "seed", "d_sae", "k", "train_rows")}
        named |= {name: self._estimate(count) for name, count in counts.items()}
        return CrosscoderStage(
            **named, stage=stage, update=update, kl=None, rows=facts["held_out_rows"], prompts=len(facts["problems"]),
            l0=float(mean_l0(self.measured.reconstruction[0])), nmse_base=self._estimate(errors[0]),
            nmse=self._estimate(errors[1]), changed_share=self._estimate(changed / counts["alive"].clamp_min(1)),
        )  # fmt: skip

    def latents(self) -> Iterator[CrosscoderLatent]:
        """One row per latent, with all problems."""
        alive, named, found = self._told(self.weights[:1])
        firings = self.sums.firings.sum(0) / self.facts["held_out_rows"]
        norms = self.model.stage_norms() / self.model.code_unit()[:, None]
        columns = {
            "alive": alive[0], "firing_rate": firings, "norm_base": norms[:, 0], "norm": norms[:, self.number],
            "relative_norm": self.decoders.relative_norm, "cosine": self.decoders.cosine, "in_error": found.in_error[0],
            "in_reconstruction": found.in_reconstruction[0],
            "confirmed": (named["new_confirmed"] | named["gone_confirmed"])[0],
        }  # fmt: skip
        of = torch.stack([named[name][0] for name in CLASSES[:4]]).int().argmax(0).tolist()
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        for latent, (which, row) in enumerate(zip(of, values, strict=True)):
            told: dict[str, Any] = dict(zip(columns, row, strict=True))
            ratios: dict[str, Any] = {
                name: told[name] if np.isfinite(told[name]) else None for name in ("in_error", "in_reconstruction")
            }
            yield CrosscoderLatent(stage=self.facts["stages"][self.number][0], latent=latent, of=CLASSES[which], **(told | ratios))

    def _told(self, weights: Tensor) -> tuple[Tensor, dict[str, Tensor], Presence]:
        """Alive latents, classes and presence in some replicates."""
        totals = self.sums.totals(weights)
        prompts = weights @ (self.sums.firings > 0).double()
        alive = (totals.firings >= self.drift.min_firings) & (prompts >= self.drift.min_prompts)
        found = presence(totals, self.decoders)
        return alive, classes(self.decoders, found, self.limits), found

    def _counts(self) -> dict[str, Tensor]:
        """Alive latents of every class, [1 + replicate]."""
        found: dict[str, list[Tensor]] = {name: [] for name in ("alive", *CLASSES)}
        for weights in self.weights.split(REPLICATES_AT_ONCE):
            alive, named, _ = self._told(weights)
            for name, which in ({"alive": alive} | {name: which & alive for name, which in named.items()}).items():
                found[name].append(which.sum(1).double())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _estimate(self, statistic: Tensor) -> Estimate:
        low, high = interval(statistic[1:].numpy(), self.drift.confidence)
        return Estimate(float(statistic[0]), low, high)
