"""A tiny real policy with texts of digits and words, the rows of one layer, and an SAE one of whose latents fires on digits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from small_scene import write_one_sae
from small_traces import extraction_arguments, publish, write_random_traces
from tiny_models import tiny_tokenizer
from transformers import AutoModelForCausalLM

from sae_core.config.sae import ReluConfig
from sae_core.models.build import build
from workflow.activations.extraction import extract_shard
from workflow.config.n2g import N2gConfig
from workflow.formats.activations import RowFilter, Store
from workflow.n2g.explaining import Cell, Machine, explain_latents

KEEP = RowFilter(1, 10.0)
DIGIT, NOISE, SILENT = 0, 1, 2
"""Latents: one that fires on digits, one of a random direction, one that never fires."""


class Explained(NamedTuple):
    """Everything that `explain_latents` reads."""

    folder: Path
    model: Path
    mined: Path
    held_out: Path
    sae: Path
    digits: list[int]

    def run(self, out: str = "n2g", **changes: Any) -> Path:
        """Mine; the folder of the results."""
        settings = {"latents": [DIGIT, NOISE, SILENT], "untrained": 1, "together": 2, "strong": 0.6} | changes.pop("settings", {})
        usual: dict[str, Any] = {
            "policy": self.folder / "policy.json", "model": self.model, "mined": [self.mined], "held_out": [self.held_out],
            "sae": self.sae, "changes": None, "folder": self.folder / out, "cell": Cell("strict", "fixed", "relu", 0, 0, "base"),
            "last_stage": "base", "keep": KEEP, "settings": N2gConfig(**settings), "machine": Machine("cpu", "float32", 256),
            "bootstrap": {"replicates": 100, "confidence": 0.95, "seed": 0}, "key": "k",
        }  # fmt: skip
        explain_latents(**(usual | changes))
        return self.folder / out


def enlarged(source: Path, folder: Path) -> Path:
    """The tiny model with embeddings so large that the residual stream of its first block tells the token."""
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_texts(folder: Path, used: list[int]) -> None:
    """Random traces of some tokens alone."""
    traces = write_random_traces(folder, {"val": 2, "test": 30, "train": 30})
    publish(folder, [trace._replace(token_ids=[used[token % len(used)] for token in trace.token_ids]) for trace in traces])


def digit_sae(store: Store, digits: list[int]) -> Any:
    """ReLU latents: on digits as far as rows tell them, along a random direction, never."""
    rows = store.read()
    targets = torch.where(torch.isin(torch.tensor(store.rows["token"].to_list()), torch.tensor(digits)), 4.0, -1.0)
    plain = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    *encoder, shift = torch.linalg.lstsq(plain.T @ plain + 1e-2 * torch.eye(65), plain.T @ targets).solution
    noise = torch.randn(64, generator=torch.Generator().manual_seed(0))
    weights = torch.stack([torch.stack(encoder), noise / (rows @ noise).std(), torch.zeros(64)])
    zeros, directions = torch.zeros(64), torch.nn.functional.normalize(torch.randn(3, 64), dim=1)
    tensors = {"W_enc": weights, "W_dec": directions, "b_enc": torch.stack([shift - 1, torch.tensor(-1.5), torch.tensor(-1.0)]),
               "b_dec": zeros, "b_pre": zeros, "scale": torch.tensor(1.0)}  # fmt: skip
    return build(ReluConfig(d_model=64, d_sae=3), tensors)


@pytest.fixture(scope="session")
def explained(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Explained]:
    folder = tmp_path_factory.mktemp("explained")
    model = enlarged(tiny_qwen2, folder / "model")
    tokenizer = tiny_tokenizer()
    digits = [token for token in range(3, len(tokenizer)) if tokenizer.decode([token]) in "0123456789"]
    write_texts(folder, [*digits, *range(260, 290)])
    parts = {}
    for part in ("hop_0", "heldout"):
        arguments = extraction_arguments(folder, model, part, prompts_per_hop=30)
        extract_shard(**arguments)
        parts[part] = arguments["manifests"][0]
    sae = write_one_sae(folder / "sae", digit_sae(Store([parts["hop_0"]]), digits), kind="relu")
    return lambda: Explained(folder, model, parts["hop_0"], parts["heldout"], sae, digits)
