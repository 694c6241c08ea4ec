"""Sampling solutions from a policy: every trace has a random stream of its own, so batch size and order change nothing."""

import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.section import ConfigError
from workflow.decoding import Decoding, random_stream
from workflow.devices import choose_device, choose_dtype, dtype_name
from workflow.language_model import end_ids, load_model, load_tokenizer

log = logging.getLogger(__name__)


class SamplingSettings(NamedTuple):
    """How solutions are sampled."""

    temperature: float
    """0 is greedy."""
    top_p: float
    """Nucleus: sampled from is the smallest set of tokens with at least this probability; 1 is all."""
    max_new_tokens: int
    """Longest response."""
    batch: int
    """Prompts decoded together; it changes speed, not results."""
    seed: int
    """Together with a trace's stream it fixes the trace."""
    top_k: int = 0
    """Only so many of the most probable tokens, before the nucleus is taken of them; 0 is all."""


class Sampled(NamedTuple):
    """One response."""

    tokens: list[int]
    """Token ids, with the one that ended the response if it ended."""
    logprobs: list[float]
    """Log-probability of each token under the policy at temperature 1 without nucleus, in nats."""
    finished: bool
    """It ended by itself, before the length limit."""


class Engine(Protocol):
    """Writes responses to prompts."""

    name: str

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[str],
        settings: SamplingSettings,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """One response per prompt, in the order of the prompts.

        Args:
            prompts: token ids.
            streams: name of each trace's random stream; equal names under one seed give equal random numbers.
            settings: see there.
            progress: called with the number of responses just finished.
        """
        ...


class TransformersEngine:
    """Samples with a transformers model in this process."""

    name = "transformers"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        listed = model.generation_config.eos_token_id if model.generation_config else None
        self._ends = torch.tensor(end_ids(tokenizer, listed), device=model.device)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[str],
        settings: SamplingSettings,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """See Engine."""
        return [sampled for sampled, _ in self.sample_reading(prompts, streams, settings, progress=progress)]

    def sample_reading(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[str],
        settings: SamplingSettings,
        read: Callable[[Tensor], Tensor] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[tuple[Sampled, list[float]]]:
        """Like `sample`, and for each token what `read` makes of the (row, d_model) states that the head saw before it."""
        return continued(self._model, prompts, streams, settings, self._ends, read=read, progress=progress)


@torch.no_grad()
def continued(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[str],
    settings: SamplingSettings,
    ends: Tensor,
    *,
    read: Callable[[Tensor], Tensor] | None = None,
    soft: Callable[[list[int]], Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[Sampled, list[float]]]:
    """One response per prompt, in the order of the prompts, and what was read before each of its tokens.

    Args:
        model: writes them.
        prompts, streams, settings, progress: as for `Engine.sample`.
        ends: token ids that end a response, on the model's device.
        read: as for `TransformersEngine.sample_reading`.
        soft: input embeddings (prompt, token, d_model) that stand in front of the prompts with these indices.
    """
    _check(prompts, streams)
    ending, done = set(ends.tolist()), {}
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(by_length), settings.batch):
        chosen = by_length[first : first + settings.batch]
        decoding = Decoding(model, [prompts[i] for i in chosen], read, soft(chosen) if soft else None)
        uniforms = [random_stream(settings.seed, streams[i]).random(settings.max_new_tokens) for i in chosen]
        written = decoding.run(np.stack(uniforms), settings.temperature, settings.top_p, ends, settings.top_k)
        for index, (tokens, logprobs, readings) in zip(chosen, written, strict=True):
            done[index] = (Sampled(tokens, logprobs, tokens[-1] in ending), readings)
        if progress:
            progress(len(chosen))
    return [done[index] for index in range(len(prompts))]


class VllmEngine:
    """Samples with vLLM on a GPU; each trace has a seed of its own."""

    name = "vllm"

    def __init__(self, folder: Path, dtype: torch.dtype, gpu_memory: float = 0.85) -> None:
        """`gpu_memory` is the share of the GPU's memory that vLLM may take."""
        from vllm import LLM  # type: ignore[import-not-found]  # where a GPU is  # absent on most machines

        self._llm = LLM(
            model=str(folder), dtype=dtype_name(dtype), seed=0, gpu_memory_utilization=gpu_memory,
            enable_prefix_caching=True, logprobs_mode="raw_logprobs",
        )  # fmt: skip
        listed = self._llm.llm_engine.model_config.try_get_generation_config().get("eos_token_id")
        self._ends = end_ids(load_tokenizer(folder), listed)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[str],
        settings: SamplingSettings,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """See Engine; `settings.batch` is left to vLLM."""
        from vllm import SamplingParams  # type: ignore[import-not-found]  # where a GPU is

        _check(prompts, streams)
        shared = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
        shared["max_tokens"] = settings.max_new_tokens
        seeds = [int(random_stream(settings.seed, stream).integers(2**31)) for stream in streams]
        params = [SamplingParams(**shared, seed=seed, logprobs=0, stop_token_ids=self._ends, detokenize=False) for seed in seeds]
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = self._llm.generate(requests, params, use_tqdm=False)
        if progress:
            progress(len(answers))
        return [self._sampled(answer.outputs[0]) for answer in answers]

    def _sampled(self, output: Any) -> Sampled:
        tokens = list(output.token_ids)
        logprobs = [float(entry[token].logprob) for entry, token in zip(output.logprobs, tokens, strict=True)]
        return Sampled(tokens, logprobs, tokens[-1] in self._ends)


def _check(prompts: Sequence[Sequence[int]], streams: Sequence[str]) -> None:
    if len(prompts) != len(streams) or not all(map(len, prompts)):
        raise ValueError(
            f"Every prompt must hold a token and have a stream; got {len(prompts)} prompts, {len(streams)} streams, "
            f"{sum(not len(prompt) for prompt in prompts)} empty. Pass one stream per non-empty prompt."
        )


def build_engine(name: str, folder: Path | str, device: str, dtype: str) -> tuple[Engine, dict[str, Any]]:
    """The engine for a policy's folder, and the facts for provenance: engine, why it, device and number format.

    Args:
        name: `auto`, `transformers` or `vllm` (traces.engine).
        folder: a transformers directory.
        device: compute.device.
        dtype: compute.dtype.

    Raises:
        ConfigError: vLLM is asked for and not installed, or there is no GPU for it.
    """
    place = choose_device(device)
    form = choose_dtype(dtype, place)
    installed = importlib.util.find_spec("vllm") is not None
    missing = [] if installed else ["vLLM is not installed"]
    missing += [] if place.type == "cuda" else ["there is no GPU to use"]
    if name == "vllm" and missing:
        raise ConfigError(
            f"traces.engine: vllm needs vLLM and a GPU; here {' and '.join(missing)}. Install vllm on a machine with a GPU, or "
            "set traces.engine to auto or transformers."
        )
    reason = "asked for" if name != "auto" else "; ".join(missing) or "vLLM is installed and there is a GPU"
    facts = {"engine_reason": reason, "device": str(place), "dtype": dtype_name(form)}
    log.info("sampling on %s in %s: %s", place, dtype_name(form), reason)
    if name == "vllm" or (name == "auto" and not missing):
        return VllmEngine(Path(folder), form), {"engine": f"vllm {importlib.metadata.version('vllm')}", **facts}
    return TransformersEngine(load_model(folder, place, form), load_tokenizer(folder)), {"engine": "transformers", **facts}
