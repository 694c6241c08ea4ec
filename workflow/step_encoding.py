"""Many steps encoded by a step-level SAE: batches of like length, codes in the order of the steps, sparse or dense.

Steps come from anything that tells their lengths and makes batches of them: a file of steps, or lists of token ids (`StepIds`).
What is held at a time is one block of steps, so `encoded_blocks` reads any number of them.
"""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Literal, NamedTuple, Protocol, final

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor, nn

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from workflow.batching import batches, blocks, padded

log = logging.getLogger(__name__)
BATCHES_PER_BLOCK = 64
"""A block holds as many full batches: like lengths are found among so many steps, and their codes held together."""


class StepSource(Protocol):
    """Steps with their contexts."""

    def __len__(self) -> int: ...

    def lengths(self) -> np.ndarray:
        """Tokens of each sequence: context, separator, step, end."""
        ...

    def batch(self, picked: Sequence[int], /) -> StepBatch:
        """These sequences, in this order."""
        ...


@final
class StepIds:
    """Steps from lists of token ids, within whatever limits they were cut to."""

    def __init__(self, contexts: Sequence[Sequence[int]], steps: Sequence[Sequence[int]], *, separator: int, end: int) -> None:
        """
        Args:
            contexts: without separator; with a BOS where the SSAE was trained with one.
            steps: without end.

        Raises:
            ValueError: not as many contexts as steps, or a step without tokens.
        """
        if len(contexts) != len(steps) or not all(map(len, steps)):
            raise ValueError(
                f"Every step must hold a token and have a context; got {len(steps)} steps, {sum(not len(step) for step in steps)} "
                f"of them empty, and {len(contexts)} contexts. Leave empty steps out, with their contexts."
            )
        self.contexts, self.steps, self.separator, self.end = contexts, steps, separator, end

    def __len__(self) -> int:
        return len(self.steps)

    def lengths(self) -> np.ndarray:
        """Tokens of each sequence: context, separator, step, end."""
        return np.array(
            [len(context) + len(step) + 2 for context, step in zip(self.contexts, self.steps, strict=True)], dtype=np.int64
        )

    def batch(self, picked: Sequence[int], /) -> StepBatch:
        """These sequences, in this order."""
        texts = [[*self.contexts[index], self.separator, *self.steps[index], self.end] for index in picked]
        start = torch.tensor([len(self.contexts[index]) + 1 for index in picked])
        return StepBatch(torch.from_numpy(padded(texts)), start, torch.tensor([len(text) for text in texts]))


class EncodingSettings(NamedTuple):
    """How steps are encoded; it changes speed, and codes within rounding."""

    batch_tokens: int = 4096
    """Tokens of one forward pass, padding included."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the language model's products (bf16 by autocast); the bottleneck computes in float32 always."""
    devices: tuple[str, ...] = ()
    """Devices that share the batches, each with a copy of the encoder; none: the one the SSAE is on."""


STANDARD = EncodingSettings()


class EncodedSteps(NamedTuple):
    """Codes of steps."""

    codes: csr_array
    """[step, d_code] float32, in the order of the steps; what is not stored is 0."""
    tokens: int
    """Tokens read, padding left out."""
    seconds: float

    @property
    def steps_per_second(self) -> float:
        """Speed, reading and batching included."""
        return (len(self.codes.indptr) - 1) / max(self.seconds, 1e-9)

    def dense(self) -> Tensor:
        """The same codes [step, d_code] as a tensor."""
        return torch.from_numpy(self.codes.toarray())


def encode_steps(
    *,
    model: StepSAE,
    steps: StepSource,
    settings: EncodingSettings = STANDARD,
    progress: Callable[[int], None] | None = None,
) -> EncodedSteps:
    """Codes of all steps, held together: 8 bytes for each active latent.

    Args:
        model: in eval mode.
        steps: what to encode.
        settings: see there.
        progress: called with the number of steps just encoded.
    """
    started = time.monotonic()
    parts = list(encoded_blocks(model=model, steps=steps, settings=settings, progress=progress))
    codes = csr_array(vstack(parts, format="csr")) if parts else csr_array((0, model.d_code), dtype=np.float32)
    found = EncodedSteps(codes, int(steps.lengths().sum()), time.monotonic() - started)
    log.info(
        "encoded %d steps of %d tokens in %.1f s: %.3g steps per s, %.1f of %d latents active",
        len(steps), found.tokens, found.seconds, found.steps_per_second, codes.nnz / max(len(steps), 1), model.d_code,
    )  # fmt: skip
    return found


def encoded_blocks(
    *,
    model: StepSAE,
    steps: StepSource,
    settings: EncodingSettings = STANDARD,
    progress: Callable[[int], None] | None = None,
) -> Iterator[csr_array]:
    """Codes block by block in the order of the steps, each [step, d_code]; one block is held at a time.

    Which steps go together depends on their lengths alone, so the same steps give the same codes bit by bit on the same device.
    """
    lengths = steps.lengths().tolist()
    encoders = _encoders(model, settings.devices)
    workers = [ThreadPoolExecutor(1) for _ in encoders]
    try:
        for block in blocks(lengths, BATCHES_PER_BLOCK * settings.batch_tokens):
            passes = list(batches(block, lengths, settings.batch_tokens))
            codes = np.empty((len(block), model.d_code), dtype=np.float32)
            turns = zip(passes, cycle(zip(workers, encoders, strict=True)), strict=False)
            found = [worker.submit(_encode, encoder, steps, picked, settings) for picked, (worker, encoder) in turns]
            for picked, part in zip(passes, found, strict=True):
                codes[np.asarray(picked) - block.start] = part.result()
                if progress:
                    progress(len(picked))
            yield csr_array(codes)
    finally:
        for worker in workers:
            worker.shutdown(cancel_futures=True)


@torch.inference_mode()
def _encode(model: StepSAE, steps: StepSource, picked: Sequence[int], settings: EncodingSettings) -> np.ndarray:
    place = model.autoencoder.latent_bias.device
    with torch.autocast(place.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
        return model.encode(steps.batch(picked).to(place)).float().cpu().numpy()


def _encoders(model: StepSAE, devices: Sequence[str]) -> list[StepSAE]:
    own = model.autoencoder.latent_bias.device
    places = [torch.device(name) for name in devices] or [own]
    return [model if number == 0 and place == own else _encoder_on(model, place) for number, place in enumerate(places)]


def _encoder_on(model: StepSAE, place: torch.device) -> StepSAE:
    """What encoding needs of the SSAE, on another device; the rest has no memory."""
    with torch.device("meta"):
        replica = StepSAE(encoder=nn.Identity(), decoder=nn.Identity(), d_model=model.d_model, factor=model.factor)
    replica.encoder = copy.deepcopy(model.encoder).to(place)
    replica.autoencoder = copy.deepcopy(model.autoencoder).to(place)
    return replica.eval()
