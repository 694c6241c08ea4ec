"""Two policies on the same texts: against torch's own divergence, and the same policy twice."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_scene import Scene, reading
from tiny_models import build_tiny_model

from workflow.config.section import ConfigError
from workflow.formats.traces import read_traces
from workflow.interventions.outputs import compare_outputs
from workflow.language_model import load_model


def compared(scene: Scene, base: Path, out: str, **changes: Any) -> pd.DataFrame:
    folder = scene.folder / out
    usual: dict[str, Any] = {
        "traces": scene.folder / "traces.parquet", "traces_manifest": scene.folder / "manifest.json", "model": scene.model,
        "base": base, "sums": folder / "sums.parquet", "manifest": folder / "manifest.json",
        "about": {"run": "strict", "text": "onpolicy", "stage": "ppo_0001"}, "reading": reading(),
    }  # fmt: skip
    compare_outputs(**(usual | changes))
    return pd.read_parquet(folder / "sums.parquet").set_index("problem")


def test_a_policy_does_not_differ_from_itself(scene: Scene) -> None:
    found = compared(scene, scene.model, "itself")
    assert (found[["kl", "kl_reverse"]] == 0).all(axis=None)
    assert (found["ce"] == found["ce_base"]).all()
    assert (found["entropy"] > 0).all()


def test_divergences_in_both_directions_are_torchs(scene: Scene, tmp_path: Path) -> None:
    other = build_tiny_model(tmp_path / "other", seed=1)
    found = compared(scene, other, "other")
    models = [load_model(folder, torch.device("cpu"), torch.float32) for folder in (scene.model, other)]
    truth = dict.fromkeys(found.index, (0.0, 0.0, 0.0))
    for trace in read_traces(scene.folder / "traces.parquet", ["test"]):
        ids, first = torch.tensor([trace.token_ids]), trace.prompt_tokens - 1
        with torch.inference_mode():
            p, q = (torch.log_softmax(model(input_ids=ids).logits[0, first:-1].double(), -1) for model in models)
        kl, reverse = (float((a.exp() * (a - b)).sum()) for a, b in ((p, q), (q, p)))
        own = torch.distributions.Categorical(logits=p).entropy().sum()
        truth[trace.problem] = tuple(a + b for a, b in zip(truth[trace.problem], (kl, reverse, float(own)), strict=True))
    for problem, (kl, reverse, entropy) in truth.items():
        row = found.loc[problem]
        assert (row["kl"], row["kl_reverse"], row["entropy"]) == pytest.approx((kl, reverse, entropy), rel=1e-3)
        assert kl > 0.01


def test_other_texts_and_single_problems_are_refused(scene: Scene, tmp_path: Path) -> None:
    other = tmp_path / "manifest.json"
    other.write_text((scene.folder / "manifest.json").read_text().replace('"digest": "', '"digest": "0'))
    with pytest.raises(ConfigError, match="digest"):
        compared(scene, scene.model, "digest", traces_manifest=other)
    with pytest.raises(ConfigError, match="at least 2 problems"):
        compared(scene, scene.model, "one", reading=reading(problems=1))
