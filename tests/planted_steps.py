"""Reasoning steps whose labels one latent and one direction give away, as the files that probes read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from workflow.formats.step_features import StepBlock, write_step_features
from workflow.formats.step_labels import KEYS, StepLabelWriter

LATENT = 7
"""The latent that fires with the label."""
DIRECTION = 2
"""The dense column that moves with it."""
WORDS = ("plus", "minus", "so", "then", "gives", "12", "7", "=")


class PlantedSteps(NamedTuple):
    """A table of steps and their features."""

    rows: list[dict[str, Any]]
    sets: dict[str, Any]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """labels.parquet and features.h5."""
        folder.mkdir(parents=True, exist_ok=True)
        labels, features = folder / "labels.parquet", folder / "features.h5"
        extra = {name: "number" for name in (self.rows or [{}])[0] if name.startswith("user_")}
        with StepLabelWriter(labels, extra) as file:
            file.add(self.rows)
        keys = {name: [row[name] for row in self.rows] for name in KEYS.names}
        write_step_features(features, [StepBlock(keys, self.sets)], facts={"layer": 1})
        return labels, features


def planted_steps(
    problems: int = 60,
    traces: int = 2,
    *,
    hit: float = 0.9,
    seed: int = 0,
    latents: int = 40,
    missing: float = 0.0,
    drift: float = 0.0,
) -> PlantedSteps:
    """Steps of problems in the splits train, val and test as 4 : 1 : 3.

    Args:
        problems: how many.
        traces: per problem, of 2 to 4 steps each.
        hit: probability that `LATENT` fires on a correct step, and that it does not on another.
        seed: of everything.
        latents: width of the sparse set.
        missing: share of labels that are missing.
        drift: how far `DIRECTION` turns into the next column.
    """
    draw = np.random.default_rng(seed)
    rows = list(_rows(draw, problems, traces, missing))
    true = np.array([row["truth"] for row in rows])
    dense = draw.standard_normal((len(rows), 6)).astype(np.float32)
    dense[:, DIRECTION] += 2 * np.cos(drift) * true
    dense[:, DIRECTION + 1] += 2 * np.sin(drift) * true
    codes = np.where(draw.random((len(rows), latents)) < 0.1, draw.exponential(1, (len(rows), latents)), 0)
    fires = draw.random(len(rows)) < np.where(true, hit, 1 - hit)
    codes[:, LATENT] = np.where(fires, 1 + draw.exponential(1, len(rows)), 0)
    surface = np.array([[row["length"], row["step"]] for row in rows], np.float32)
    sets = {"dense.last": dense, "sae.topk.max": csr_array(codes.astype(np.float32)), "surface": surface}
    return PlantedSteps([{name: value for name, value in row.items() if name != "truth"} for row in rows], sets)


def _rows(draw: np.random.Generator, problems: int, traces: int, missing: float) -> Iterator[dict[str, Any]]:
    for problem in range(problems):
        split = ("train", "train", "train", "train", "val", "test", "test", "test")[problem % 8]
        lean = draw.beta(2, 2)
        for sample in range(traces):
            count = int(draw.integers(2, 5))
            final = bool(draw.random() < lean)
            for step in range(count):
                truth, length = bool(draw.random() < lean), int(draw.integers(4, 30))
                known = draw.random() >= missing
                yield {
                    "problem": f"p{problem:03d}", "group": f"g{problem:03d}", "split": split, "sample": sample, "step": step,
                    "trace": f"p{problem:03d}/base/{sample}", "steps": count, "tokens": length + 1, "length": length,
                    "text": " ".join(draw.choice(WORDS, 4)), "correct": truth if known else None, "final_strict": final,
                    "after_first_error": step > 1, "next_first_token": int(draw.integers(3)) if step + 1 < count else None,
                    "user_score": float(truth + draw.normal()), "truth": truth,
                }  # fmt: skip
