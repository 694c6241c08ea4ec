"""How alike the rows of two stages are, at one (run, text, layer): measures with groups of prompts left out in turn.

`sums.safetensors` holds, in float64, for every measured pair `{against}/{stage}`:

- `values` [1 + group, measure]: every smooth measure on all prompts, then with each group left out; the measures are those of
  `SMOOTH`, then the share of the change inside each span.
- `subspaces` [variance share, 4]: rank, mean angle, largest angle (radians), gap, as in `sae_core.metrics.representation`.
- `inside_variance` [span]: share of the variance of `against` inside each span.

`manifest.json` (artefact `representation`) MUST say: run, text, layer, hook_point, d_model, `stages` (lists of name and update,
base first), `pairs` (lists of against and stage), `spans` (kind and seed of the base SAE, `directions` asked for and `rank` found),
`variance_shares`, `groups`, `problems`, `rows`, `row_filter`, `saes` (digest by `{kind}/{seed}`), `stores` (digests of shards by
stage), `digest` (of sums.safetensors).
"""

from itertools import pairwise

ARTEFACT = "representation"
SMOOTH = ("cka", "procrustes", "participation_ratio", "participation_change", "change_size", "mean_shift_share")
"""Measures that have an interval, in the order of `values`."""
SUBSPACE = ("rank", "angle_mean", "angle_largest", "gap")
"""Columns of `subspaces`."""


def stage_pairs(stages: list[str]) -> list[tuple[str, str]]:
    """Every later stage against base and against the stage before it, each pair once: (against, stage)."""
    base, *later = stages
    return list(dict.fromkeys([*((base, stage) for stage in later), *pairwise(stages)]))
