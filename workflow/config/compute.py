"""Section `compute`: the machine of one job. Never part of a rule's params, but for what changes numbers."""

from typing import Literal

from pydantic import PositiveInt

from workflow.config.section import Section


class ComputeConfig(Section):
    threads: PositiveInt = 2
    """Threads of one job; a job never uses more than Snakemake granted or the machine has."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live; `auto` takes a GPU when there is one. Which it was stands in every provenance.json."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the language model; `auto` is bfloat16 where the hardware multiplies it, else float32."""
