"""Steps written from their codes: the decoder of a step-level SAE continues [soft tokens, context, separator] up to the end.

A code may be that of the step itself (reconstruction), of another step (swap), changed by `sae_core.models.step_codes` (steering),
or drawn from the prior of codes (`codes_from_prior`). Every row has random numbers of its own and is written as it would be alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_prior import prior
from sae_core.models.step_sae import StepSAE
from workflow.batching import padded
from workflow.config.section import ConfigError
from workflow.decoding import random_stream
from workflow.sampling import Sampled, SamplingSettings, continued

GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=256, batch=32, seed=0)
"""The most probable token each time, as long as the published code lets a step become."""


@torch.no_grad()
def decode_steps(
    *,
    model: StepSAE,
    codes: Tensor,
    contexts: Sequence[Sequence[int]],
    separator: int,
    end: int,
    settings: SamplingSettings = GREEDY,
    streams: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Sampled]:
    """One step per code, written behind its context.

    Args:
        model: in eval mode, on the device that is to write.
        codes: (step, d_code) float32, on any device.
        contexts: token ids in front of the separator, a BOS included where the data has one.
        separator: id of `<sep>`.
        end: id that ends a step; it is the last of a finished step's tokens.
        settings: how tokens are chosen; `batch` steps are written together.
        streams: name of each step's random stream, which with the seed decides it; None: its number in this call.
        progress: called with the number of steps just written.

    Raises:
        ValueError: unlike numbers of codes and contexts, or codes of another width.
        ConfigError: a step could become longer than the decoder has positions.
    """
    _check(model, codes, contexts, settings)
    decoder: Any = model.decoder
    place, form = next((p.device, p.dtype) for p in model.projection_mlp.parameters())
    written = continued(
        decoder,
        [[*context, separator] for context in contexts],
        _names(contexts, streams),
        settings,
        torch.tensor([end], device=place),
        soft=lambda rows: model.soft_tokens(codes[rows].to(place, form)),
        progress=progress,
    )
    return [sampled for sampled, _ in written]


@torch.no_grad()
def codes_from_prior(
    *,
    model: StepSAE,
    contexts: Sequence[Sequence[int]],
    separator: int,
    seed: int,
    streams: Sequence[str] | None = None,
    normalise: bool = True,
    batch: int = 32,
) -> Tensor:
    """Codes (context, d_code) drawn from what each context alone lets one expect, on the CPU.

    Args:
        model: with its hints encoder.
        contexts, separator, streams: as for `decode_steps`.
        normalise: false as in the original (`ssae.legacy.raw_prior`): their length is then seldom the 1 that codes of steps have.
        batch: contexts read together.

    Raises:
        ValueError: the SSAE was loaded without hints encoder, or unlike numbers of contexts and streams.
    """
    names = _names(contexts, streams)
    place = next(model.mean_mlp.parameters()).device
    codes = torch.empty(len(contexts), model.d_code)
    by_length = sorted(range(len(contexts)), key=lambda index: len(contexts[index]))
    for first in range(0, len(by_length), batch):
        chosen = by_length[first : first + batch]
        start = torch.tensor([len(contexts[index]) + 1 for index in chosen])
        ids = torch.from_numpy(padded([[*contexts[index], separator] for index in chosen]))
        expected = prior(model, StepBatch(ids, start, start).to(place))
        noise = np.stack([random_stream(seed, names[index], "prior").standard_normal(model.d_code) for index in chosen])
        codes[chosen] = expected.at(torch.from_numpy(noise).to(expected.mean), normalise=normalise).float().cpu()
    return codes


def top_k_over_top_p(settings: SamplingSettings) -> SamplingSettings:
    """The settings as the original understands them (`ssae.legacy.topk_over_topp`): with a top_k, it ignores top_p."""
    return settings._replace(top_p=1.0) if settings.top_k > 0 else settings


def _names(contexts: Sequence[Sequence[int]], streams: Sequence[str] | None) -> list[str]:
    names = [str(number) for number in range(len(contexts))] if streams is None else list(streams)
    if len(names) != len(contexts):
        raise ValueError(f"There must be one stream per context, or none at all; got {len(names)} for {len(contexts)}. Name each.")
    return names


def _check(model: StepSAE, codes: Tensor, contexts: Sequence[Sequence[int]], settings: SamplingSettings) -> None:
    if codes.shape != (len(contexts), model.d_code):
        raise ValueError(
            f"There must be one code of {model.d_code} latents for each of the {len(contexts)} contexts; got {tuple(codes.shape)}. "
            "Encode with the same SSAE, and give each context with its code."
        )
    decoder: Any = model.decoder
    room = getattr(decoder.config.get_text_config(), "max_position_embeddings", None)
    longest = model.factor + max(map(len, contexts), default=0) + 1 + settings.max_new_tokens
    if room is not None and longest > room:
        raise ConfigError(
            f"Soft tokens, context, separator and new tokens must fit into the {room} positions of the decoder; they can become "
            f"{longest}. Cut the contexts or lower max_new_tokens."
        )
