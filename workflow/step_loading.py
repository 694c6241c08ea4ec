"""A step-level SAE with the tokenizer of its base model, ready for use: `load_step_sae("lab/SSAEs", file="one.pt")`."""

from pathlib import Path
from typing import NamedTuple

import torch

from sae_core.models.step_sae import StepSAE
from workflow.formats.published.step_saes import read_published
from workflow.formats.step_saes import BASE, read_step_tensors
from workflow.step_saes import filled_step_sae
from workflow.step_sources import LocatedStepSAE, locate_base, locate_step_sae
from workflow.step_tokens import StepTokenizer, check_rows, step_tokenizer


class LoadedStepSAE(NamedTuple):
    """What use of an SSAE needs."""

    model: StepSAE
    """In eval mode, without gradients."""
    tokenizer: StepTokenizer
    source: LocatedStepSAE
    base: Path
    """Folder of the base model."""


def load_step_sae(
    name: str | Path,
    *,
    file: str | None = None,
    revision: str | None = None,
    base: str | Path | None = None,
    base_revision: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prior: bool = False,
    double_bos: bool = False,
) -> LoadedStepSAE:
    """The SSAE of a file, a folder or a hub id, on a device.

    Args:
        name, file, revision: as for `locate_step_sae`.
        base, base_revision: base model, whatever the file says of it; as for `locate_base`.
        device: where it computes.
        dtype: of all weights; codes are published in float32.
        prior: with the hints encoder, for drawing codes.
        double_bos: texts are tokenised as the published SSAEs read them (`ssae.legacy.double_bos`); of no effect without
            a BOS. An SSAE that saedrift trained so says it itself.

    Raises:
        ConfigError: something is missing, or the base model is not the one that the SSAE was trained around.
    """
    source = locate_step_sae(name, file=file, revision=revision)
    if source.path.suffix == ".json":
        found, facts = read_step_tensors(source.path)
        base, double_bos = base or source.path.with_name(BASE), double_bos or "double_bos" in facts["legacy"]
    else:
        found = read_published(source.path)
    folder = locate_base(found.base_model, base=base, revision=base_revision)
    tokenizer = step_tokenizer(folder, double_bos=double_bos)
    check_rows(tokenizer, found.sizes.vocab, f"in {source.path}", exactly=True)
    model = filled_step_sae(found, folder, dtype=dtype, prior=prior)
    return LoadedStepSAE(model.to(device), tokenizer, source, folder)
