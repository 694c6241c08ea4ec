"""SAEs made by SAELens itself, small and with no parameter at 0, and what it computes with them.

Importing this module needs sae-lens; tests ask for it with `pytest.importorskip` first.
"""

import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sae_lens
    from sae_lens.saes.abstopk_sae import AbsTopKSAE, AbsTopKSAEConfig, AbsTopKTrainingSAE, AbsTopKTrainingSAEConfig
    from sae_lens.saes.sae import SAE, SAEMetadata, TrainingSAE

D_IN, D_SAE, K, ROWS = 6, 20, 5, 9
HOOK = "blocks.3.hook_resid_post"
INFERENCE: dict[str, tuple[type[SAE], type]] = {
    "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig),
    "topk": (sae_lens.TopKSAE, sae_lens.TopKSAEConfig),
    "abstopk": (AbsTopKSAE, AbsTopKSAEConfig),
    "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig),
    "gated": (sae_lens.GatedSAE, sae_lens.GatedSAEConfig),
}
TRAINING: dict[str, tuple[type[TrainingSAE], type]] = {
    "standard": (sae_lens.StandardTrainingSAE, sae_lens.StandardTrainingSAEConfig),
    "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig),
    "abstopk": (AbsTopKTrainingSAE, AbsTopKTrainingSAEConfig),
    "jumprelu": (sae_lens.JumpReLUTrainingSAE, sae_lens.JumpReLUTrainingSAEConfig),
    "gated": (sae_lens.GatedTrainingSAE, sae_lens.GatedTrainingSAEConfig),
    "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig),
    "matryoshka_batchtopk": (sae_lens.MatryoshkaBatchTopKTrainingSAE, sae_lens.MatryoshkaBatchTopKTrainingSAEConfig),
}
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")


class Conventions(NamedTuple):
    """One way in which SAELens can compute a kind."""

    kind: str
    apply_b_dec_to_input: bool
    normalize_activations: str
    rescale_acts_by_decoder_norm: bool = False

    def __str__(self) -> str:
        parts = (self.kind, "minus_b_dec" * self.apply_b_dec_to_input, self.normalize_activations)
        return "-".join(filter(None, (*parts, "by_norm" * self.rescale_acts_by_decoder_norm)))


def all_conventions() -> Iterator[Conventions]:
    """Every kind, pre-bias, normalisation and unit of selection that SAELens has at inference."""
    for kind, applied, normalisation in product(INFERENCE, (True, False), NORMALISATIONS):
        for by_norm in (False, True) if "topk" in kind else (False,):
            yield Conventions(kind, applied, normalisation, by_norm)


def rows(seed: int = 0, count: int = ROWS) -> Tensor:
    """Rows with a mean, of different lengths."""
    draw = torch.Generator().manual_seed(1000 + seed)
    found = torch.randn(count, D_IN, generator=draw) * (1 + torch.rand(count, 1, generator=draw)) + 0.7
    found[: count // 3] *= 0.01  # small rows show what is added to a standard deviation
    return found


def filled(sae: SAE, seed: int = 0) -> SAE:
    """The SAE with random parameters: rows of W_dec of different norms, thresholds of 0.1 to 0.6."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(sae.named_parameters()):
            values = torch.randn(tensor.shape, generator=draw) * (0.3 if tensor.ndim == 1 else 0.5)
            tensor.copy_(values.abs() + 0.1 if name == "threshold" else values)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.4)
    return sae


def settings(kind: str, conventions: Conventions | None = None) -> dict[str, Any]:
    """Fields of a configuration of SAELens."""
    found: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, "metadata": SAEMetadata(model_name="tiny", hook_name=HOOK)}
    if "topk" in kind:
        found["k"] = K
    if kind == "matryoshka_batchtopk":
        found["matryoshka_widths"] = [4, 9, D_SAE]
    if conventions is not None:
        found["apply_b_dec_to_input"] = conventions.apply_b_dec_to_input
        found["normalize_activations"] = conventions.normalize_activations
        if "topk" in kind:
            found["rescale_acts_by_decoder_norm"] = conventions.rescale_acts_by_decoder_norm
    return found


def at_inference(conventions: Conventions, seed: int = 0, **more: Any) -> SAE:
    """An SAE for inference."""
    model, config = INFERENCE[conventions.kind]
    return filled(model(config(**settings(conventions.kind, conventions), **more)), seed)


def in_training(kind: str, seed: int = 0, **more: Any) -> TrainingSAE:
    """An SAE that is still trained."""
    model, config = TRAINING[kind]
    return filled(model(config(**(settings(kind) | more))), seed)


def loaded(folder: Path, **more: Any) -> SAE:
    """What SAELens makes of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return SAE.load_from_disk(folder, **more)


def computed(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction."""
    with torch.no_grad():
        codes = sae.encode(x)
        return codes, sae.decode(codes)
