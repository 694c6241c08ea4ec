"""The files of one trained step-level SAE, in this software's layout and in the released one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_core.training.step_trainer import StepTrainer
from workflow.config.ssae import SsaeConfig
from workflow.formats.files import publish, write_text
from workflow.formats.published.step_saes import write_published
from workflow.formats.step_saes import BASE, FILE, HEAD, write_step_manifest
from workflow.ssae.records import Evaluation, history_csv
from workflow.step_saes import add_hints_encoder, save_base
from workflow.step_tokens import step_tokenizer


class Kept(NamedTuple):
    """What a training leaves."""

    history: Sequence[Evaluation]
    update: int
    """Whose weights are kept."""
    file: Path
    """These weights."""


def publish_step_sae(
    folder: Path,
    trainer: StepTrainer,
    base: Path,
    kept: Kept,
    settings: SsaeConfig,
    facts: dict[str, Any],
    published: Path | str | None,
) -> None:
    """Write the files by the first process; all must call it.

    Args:
        folder: takes the place of what has that name.
        base: folder of the base model.
        facts: what the manifest says of steps and seed.
        published: file in the released layout, of the last update; None: no such file.
    """
    if published is not None:
        _publish_released(Path(published), trainer, base, kept.history, settings)
    if trainer.ranks.index > 0:
        return
    model = trainer.model
    scratch = kept.file.parent / "folder"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    shutil.copyfile(kept.file, scratch / FILE)
    for every in sorted(kept.file.parent.glob("update_*.safetensors")):
        shutil.copy2(every, scratch / every.name)
    save_base(model, step_tokenizer(base, double_bos=settings.legacy.double_bos), scratch / BASE)
    write_text(scratch / "history.csv", history_csv(kept.history))
    row = next(row for row in kept.history if row.update == kept.update)
    text = model.decoder.config.get_text_config()  # type: ignore[union-attr]  # a transformers model
    sizes = {"d_model": model.d_model, "factor": model.factor, "d_code": model.d_code, "vocab": text.vocab_size}
    quality = {name: getattr(row, name) for name in ("nll", "l1", "l0", "active_share")}
    write_step_manifest(
        scratch, **sizes, blocks=text.num_hidden_layers, phase=trainer.config.phase, kept_update=kept.update, **quality, **facts
    )  # fmt: skip
    publish(scratch, folder)


def _publish_released(path: Path, trainer: StepTrainer, base: Path, history: Sequence[Evaluation], settings: SsaeConfig) -> None:
    """The last state in the released layout; in phase 1 with the base model as the hints encoder, as the original has it."""
    tensors, moments = trainer.weights(), trainer.state_dict()["optimiser"]
    if trainer.ranks.index > 0:
        return
    config, micro = trainer.config, settings.training.micro_batch
    training = {
        "optimizer": _optimizer(moments, len(trainer.trained), trainer),
        "iter_num": (trainer.update - 1) // config.updates_per_epoch,
        "global_step": trainer.update * (settings.training.batch // micro),
        "best_val_loss": min(row.nll for row in history),
        "config": {"phase": config.phase, "sparsity_factor": trainer.model.factor, "n_inputs": trainer.model.d_model,
                   "n_latents": trainer.model.d_code, "L1_TARGET": settings.target_l1},
    }  # fmt: skip
    write_published(path, _released(tensors, trainer, base), base_model=str(base), training=training)


def _released(tensors: dict[str, Tensor], trainer: StepTrainer, base: Path) -> dict[str, Tensor]:
    """All tensors in the released order, a tied head beside the embedding it shares."""
    model = trainer.model
    if model.hints_encoder is None:
        torch.manual_seed(trainer.config.seed)
        add_hints_encoder(model, base)
        hints: Any = model.hints_encoder
        tensors |= {f"hints_encoder.{name}": tensor for name, tensor in hints.state_dict().items()}
        model.hints_encoder = None
    tensors.setdefault(HEAD, tensors["decoder.model.embed_tokens.weight"])
    parts = ("encoder", "hints_encoder", "decoder", "autoencoder", "mean_mlp", "var_mlp", "projection_mlp")
    return {name: tensors[name] for part in parts for name in _behind(part, tensors)}


def _behind(part: str, tensors: dict[str, Tensor]) -> list[str]:
    return [name for name in tensors if name.partition(".")[0] == part]


def _optimizer(moments: dict[str, Tensor], count: int, trainer: StepTrainer) -> dict[str, Any]:
    """The state dict of an AdamW as the original makes it."""
    group = {name: value for name, value in trainer.optimiser.param_groups[-1].items() if name not in ("params", "multiple")}
    names = ("step", "exp_avg", "exp_avg_sq")
    state = {place: {name: moments[f"{place}.{name}"] for name in names} for place in range(count) if f"{place}.step" in moments}
    return {"state": state, "param_groups": [{**group, "fused": None, "params": list(range(count))}]}
