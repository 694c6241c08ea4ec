"""Section `compute`: the machine of one job. Never part of a rule's params, but for what changes numbers."""

from typing import Literal

from pydantic import PositiveInt

from workflow.config.section import Section


class ComputeConfig(Section):
    threads: PositiveInt = 1
    """Threads of a job that computes; on two cores, two such jobs side by side beat one with two threads. Raise it to 4 or 8 where
    there are many more cores than jobs. A job never uses more than the machine has."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live; `auto` takes a GPU when there is one. Which it was stands in every provenance.json."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the language model; `auto` is bfloat16 where the hardware multiplies it, else float32."""

    backend: Literal["auto", "torch", "native", "triton"] = "auto"
    """What computes the updates of SAEs, and their codes in measurements of drift: `torch`, always there; `native`, C++ for the
    CPU; `triton` for a GPU; `auto` takes the fastest that is there. All agree to rounding; which it was, and why,
    stands in provenance.json."""
