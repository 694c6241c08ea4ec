"""Files of qresearch: `<model>-SAE-l<N>.pt`, ReLU between two nn.Linear, on the input of block N.

A pickle of the state dict alone: `encoder.weight` [d_sae, d_model], `encoder.bias`, `decoder.weight` [d_model, d_sae] and
`decoder.bias`. f = max(W x + b, 0), x̂ = D f + c, in float32; no pre-bias, no normalisation, no unit norms. The authors' notebook
reads the input of block N, which is the output of block N − 1; SAELens labels a sister of these SAEs one block later.
"""

import re
from pathlib import Path

from sae_core.config.sae import ReluConfig
from sae_core.models.elementwise import ReluSAE
from workflow.formats.published.facts import Given, Published, facts_of
from workflow.formats.published.linear import LINEAR_PAIR, linear_pair
from workflow.formats.published.tensors import exactly, read_tensors

NAME = re.compile(r"(.+)-SAE-l(\d+)")


def read_qresearch(path: Path | str, given: Given | None = None) -> Published:
    """The SAE in one file.

    Raises:
        ConfigError: the file is missing, damaged or another's.
    """
    path, given = Path(path), given or Given()
    stored = read_tensors(path).without(given.ignore)
    exactly(stored, LINEAR_PAIR, "an SAE of qresearch")
    tensors = linear_pair(stored, given)
    d_sae, d_model = tensors["W_enc"].shape
    told = NAME.fullmatch(path.stem)
    assumed, hook = (), given.hook_point
    if told and not hook:
        hook = f"blocks.{told[2]}.hook_resid_pre"
        assumed = (f"hook_point: {hook} (file name, and the authors' notebook, which reads the input of the block)",)
    elif hook:
        assumed = (f"hook_point: {hook} (given)",)
    facts = facts_of("qresearch", hook, stored.dtype, assumed, {"model_name": told[1]} if told else {})
    return Published(ReluSAE(ReluConfig(d_model=d_model, d_sae=d_sae, pre_bias="none"), tensors), facts)
