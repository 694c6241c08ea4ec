"""What SAELens 6 computes from a folder, written down again in dense float64: checked against SAELens' own results (golden)."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def forward(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction of a folder in the form of version 6."""
    cfg = json.loads((folder / "cfg.json").read_text())
    assert int(cfg["metadata"]["sae_lens_version"].split(".")[0]) >= 6, "SAELens would drop the metadata"
    t = {name: tensor.double() for name, tensor in load_file(folder / "sae_weights.safetensors").items()}
    rows, offset, size = x.double(), torch.zeros(()), torch.ones(())
    if cfg["normalize_activations"] == "constant_norm_rescale":
        size = rows.norm(dim=1, keepdim=True) / cfg["d_in"] ** 0.5
        rows = rows / size
    elif cfg["normalize_activations"] == "layer_norm":
        offset, size = rows.mean(1, keepdim=True), rows.std(1, keepdim=True)
        rows = (rows - offset) / (size + 1e-5)
    u = (rows - t["b_dec"] * cfg["apply_b_dec_to_input"]) @ t["W_enc"]
    norms = t["W_dec"].norm(dim=1) if cfg.get("rescale_acts_by_decoder_norm") else torch.ones(cfg["d_sae"])
    f = codes(cfg, t, u, norms)
    return f.float(), ((f / norms @ t["W_dec"] + t["b_dec"]) * size + offset).float()


def codes(cfg: dict, t: dict[str, Tensor], u: Tensor, norms: Tensor) -> Tensor:
    """Codes from the rows' products with W_enc."""
    match cfg["architecture"]:
        case "standard":
            return (u + t["b_enc"]).relu()
        case "jumprelu":
            z = u + t["b_enc"]
            return z.relu() * (z > t["threshold"])
        case "gated":
            return (u + t["b_gate"] > 0) * (u * t["r_mag"].exp() + t["b_mag"]).relu()
        case "topk" | "abstopk" as kind:
            z = (u + t["b_enc"]) * norms
            ranked = z.abs() if kind == "abstopk" else z
            kept = z * torch.zeros_like(z).scatter(1, ranked.topk(cfg["k"]).indices, 1)
            return kept if kind == "abstopk" else kept.relu()
        case other:
            raise AssertionError(f"{other} cannot be loaded by SAELens")
