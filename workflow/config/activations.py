"""Section `activations`: which rows of the residual stream are stored, and how."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from workflow.config.section import Section


class ActivationsConfig(Section):
    prompts_per_hop: PositiveInt = 500
    """Train problems whose rows feed one hop of an SAE chain; each hop has a block of its own, see saes.hop_rows."""

    shards: PositiveInt = 1
    """Shards per part of a store; each is written by one job."""

    batch_tokens: PositiveInt = 2048
    """Tokens of one forward pass; traces of like length go together."""

    max_tokens: PositiveInt = 1024
    """Longest text; longer ones are cut at the end and counted in the manifest."""

    chunk_rows: PositiveInt = 1024
    """Rows of one zarr chunk."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Stored number format; `auto` is the language model's. A value outside its range is an error, never clipped."""

    skip_positions: NonNegativeInt = 1
    """Positions at the start of a text that are stored but never trained on or scored (attention sinks)."""

    max_norm_multiple: PositiveFloat = 10.0
    """Rows with a norm above this multiple of the store's median are treated like the skipped positions."""
