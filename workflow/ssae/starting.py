"""What a training of a step-level SAE begins with: fresh weights, or those of another one, and its settings for the core."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, distributed

from sae_core.config.step_training import StepLegacy, StepTrainingConfig
from sae_core.models.step_sae import StepSAE, last_states
from sae_core.training.ranks import Ranks
from sae_core.training.sparsity_control import PredictiveControl, SparsityControl, SparsityTarget, StepwiseControl
from sae_core.training.step_start import centre_codes, start_at_target
from workflow.config.section import ConfigError
from workflow.config.ssae import SsaeConfig
from workflow.devices import choose_dtype
from workflow.formats.files import file_digest
from workflow.formats.published.step_saes import PublishedStepSAE, read_published, read_published_moments
from workflow.formats.step_saes import read_step_tensors
from workflow.ssae.step_stream import StepStream
from workflow.step_saes import add_hints_encoder, filled_step_sae, fresh_step_sae
from workflow.step_tokens import step_tokenizer

SCALED_BY = 512
"""Steps whose states scale a fresh bottleneck."""


class Start(NamedTuple):
    """The beginning of a training."""

    model: StepSAE
    parent: str | None
    """Digest of the SSAE that the weights are from."""
    moments: Mapping[str, Tensor] | None
    """State of AdamW by place of its tensor, where it goes on."""


def starting_point(settings: SsaeConfig, base: Path, given: Path | None, seed: int) -> Start:
    """The model on the CPU, in float32.

    Args:
        base: folder of the base model, with its weights.
        given: manifest.json of an SSAE of this software or a published file; None for a fresh one.

    Raises:
        ConfigError: the base model, the given SSAE and the settings do not fit each other.
    """
    prior = settings.training.phase > 1
    torch.manual_seed(seed)
    if given is None:
        if prior:
            raise ConfigError("Phases 2 and 3 must start from an SSAE of phase 1; none is given. Name one in ssae.given.model.")
        vocab = step_tokenizer(base).vocab
        return Start(fresh_step_sae(base, factor=settings.factor, blocks=settings.blocks, vocab=vocab), None, None)
    found, parent = given_step_sae(given)
    with_hints = prior and found.has_hints_encoder
    model = filled_step_sae(found, base if given.suffix != ".json" else given.with_name("base"), prior=with_hints)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # no longer mapped from the file
    if prior and not with_hints:
        add_hints_encoder(model, base)
    if model.factor != settings.factor:
        raise ConfigError(
            f"ssae.factor must be {model.factor}, that of the SSAE it starts from; got {settings.factor}. Set it to {model.factor}."
        )
    return Start(model, parent, _moments(given) if settings.given.resume else None)


def prepare_bottleneck(model: StepSAE, stream: StepStream, settings: SsaeConfig, ranks: Ranks, *, fresh: bool) -> None:
    """Centre the bottleneck on the steps of the first updates, and scale a fresh one by them; all processes get that of the first.

    Raises:
        ConfigError: these steps or the target do not allow it.
    """
    states, seen = [], 0
    model.eval()
    for draw in itertools.islice(stream.updates(0), stream.updates_per_epoch):
        for batch in draw.batches:
            with torch.inference_mode():
                here = batch.to(model.autoencoder.latent_bias.device)
                states.append(last_states(model.encoder, here.ids, here.real, here.length - 1))
        seen += len(draw.steps)
        if seen >= SCALED_BY:
            break
    try:
        if fresh:
            start_at_target(model, torch.cat(states), float(settings.target_l1))
        else:
            centre_codes(model.autoencoder, torch.cat(states))
    except ValueError as error:
        raise ConfigError(f"ssae.initialisation=at_target is not possible here. {error}") from None
    made = (*model.autoencoder.parameters(), *model.autoencoder.buffers(), *model.projection_mlp.parameters())
    for tensor in made if ranks.size > 1 else ():
        distributed.broadcast(tensor.data, src=0, group=ranks.group)


def given_step_sae(path: Path) -> tuple[PublishedStepSAE, str]:
    """Tensors of an SSAE and their digest, of the manifest.json of one that saedrift trained or of a published file.

    Raises:
        ConfigError: its files are missing or damaged, or no SSAE.
    """
    if path.suffix == ".json":
        found, facts = read_step_tensors(path)
        return found, str(facts["digest"])
    return read_published(path), file_digest(path)


def _moments(given: Path) -> Mapping[str, Tensor]:
    if given.suffix == ".json":
        raise ConfigError(
            f"To go on with AdamW's moments, a published file with them must be given; {given.parent} is an SSAE of saedrift, "
            "which holds none. Set ssae.given.resume=false."
        )
    return read_published_moments(given)


def training_config(settings: SsaeConfig, updates_per_epoch: int, seed: int, device: torch.device) -> StepTrainingConfig:
    """The settings as the core takes them."""
    training, legacy = settings.training, settings.legacy
    named = ("phase", "epochs", "lr", "min_lr", "warmup_epochs", "decay_epochs", "schedule", "schedule_per", "beta1", "beta2")
    more = ("weight_decay", "grad_clip", "encoder_lr_multiple", "train_embeddings", "token_mask_rate", "noise")
    flags = ("masked_readout", "phase3_raw", "eval_noise", "sum_accumulation", "local_controller")
    return StepTrainingConfig(
        **{name: getattr(training, name) for name in (*named, *more)}, updates_per_epoch=updates_per_epoch, seed=seed,
        precision=_precision(training.precision, device), legacy=StepLegacy(**{name: getattr(legacy, name) for name in flags}),
    )  # fmt: skip


def control_of(settings: SsaeConfig) -> SparsityControl:
    """The controller of the L1 norm's weight."""
    own = settings.sparsity
    aim = SparsityTarget(float(settings.target_l1), start=own.start_weight, low=own.min_weight, high=own.max_weight)
    if own.controller == "stepwise":
        return StepwiseControl(aim, every=own.every, factor=own.factor)
    return PredictiveControl(aim, gain=own.gain, lookahead=own.lookahead, smoothing=own.smoothing, most=own.max_change)


def _precision(setting: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    if setting != "auto":
        return setting
    multiplies = device.type == "cuda" and choose_dtype("auto", device) == torch.bfloat16
    return "bf16" if multiplies else "fp32"
