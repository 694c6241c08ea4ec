"""Make the folders of tests/workflow/formats/published/golden with SAELens itself: what it saves, and what it computes from it.

PYTHONHASHSEED=0 PYTHONPATH=.:tests python tests/tools/make_saelens_golden.py        (needs sae-lens; from the root of the repository)

Every case is one folder as SAELens saved it. cases.json says for each what a reader has to be given, expected.safetensors holds `rows`
and, for each case, `<case>/codes` and `<case>/reconstruction` in float32. Cases of before version 6 have the tensors of SAELens 6 and a
cfg.json in the old flat form.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sae_lens_saes import HOOK, Conventions, at_inference, computed, filled, in_training, loaded, rows
from safetensors.torch import save_file

GOLDEN = Path("tests/workflow/formats/published/golden")
FACTOR = 0.6
OLD = {
    "old_standard": ("standard", {"hook_point": HOOK, "activation_fn_str": "relu", "normalize_activations": False}),
    "old_topk": (
        "topk",
        {"hook_name": HOOK, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}, "apply_b_dec_to_input": False},
    ),
    "old_jumprelu": ("jumprelu", {"hook_name": HOOK, "architecture": "jumprelu", "activation_fn": "relu", "hook_layer": 3}),
}


def plain() -> Iterator[Conventions]:
    """A choice in which every kind, pre-bias, normalisation and unit of selection comes up; tests with sae-lens do all."""
    for kind in ("standard", "topk", "abstopk", "jumprelu", "gated"):
        yield Conventions(kind, True, "none")
        yield Conventions(kind, False, "none")
    yield Conventions("topk", True, "none", True)
    yield Conventions("abstopk", False, "none", True)
    for kind, applied in (("standard", True), ("topk", False)):
        yield Conventions(kind, applied, "constant_norm_rescale")
        yield Conventions(kind, not applied, "layer_norm")


def make() -> Iterator[tuple[str, dict[str, Any], Path]]:
    """Save every case; its name, what a reader has to be given, and the folder SAELens computes from."""
    for seed, conventions in enumerate(plain()):
        at_inference(conventions, seed).save_model(GOLDEN / str(conventions))
        yield str(conventions), {}, GOLDEN / str(conventions)
    for seed, kind in enumerate(("topk", "batchtopk", "matryoshka_batchtopk")):
        sae = in_training(kind, seed)
        sae.save_inference_model(GOLDEN / f"{kind}-inference")
        sae.save_model(GOLDEN / f"{kind}-in_training")
        yield f"{kind}-inference", {}, GOLDEN / f"{kind}-inference"
        yield f"{kind}-in_training", {}, GOLDEN / f"{kind}-inference"
    half = at_inference(Conventions("standard", True, "none"), 40, dtype="bfloat16")
    half.save_model(GOLDEN / "standard-bfloat16")
    yield "standard-bfloat16", {}, GOLDEN / "standard-bfloat16"
    for seed, (name, (kind, cfg)) in enumerate(OLD.items(), 50):
        sae = at_inference(Conventions(kind, cfg.get("apply_b_dec_to_input", True), "none"), seed)
        sae.save_model(GOLDEN / name)
        flat = {"d_in": sae.cfg.d_in, "d_sae": sae.cfg.d_sae, "dtype": "torch.float32", "model_name": "tiny", "lr": 0.0004}
        (GOLDEN / name / "cfg.json").write_text(json.dumps(flat | cfg))
        yield name, {}, GOLDEN / name


def main() -> None:
    """Replace the whole folder."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    x = rows()
    expected, cases = {"rows": x}, {}
    for name, given, folder in make():
        codes, reconstruction = computed(loaded(folder, dtype="float32"), x)
        expected |= {f"{name}/codes": codes, f"{name}/reconstruction": reconstruction}
        cases[name] = given
    averaged = at_inference(Conventions("topk", True, "expected_average_only_in"), 60)
    averaged.save_model(GOLDEN / "topk-expected_average")
    filled(averaged, 60).fold_activation_norm_scaling_factor(FACTOR)
    codes, reconstruction = computed(averaged, x)
    expected |= {"topk-expected_average/codes": codes, "topk-expected_average/reconstruction": reconstruction}
    cases["topk-expected_average"] = {"norm_scaling_factor": FACTOR}
    save_file({name: tensor.float().contiguous() for name, tensor in expected.items()}, GOLDEN / "expected.safetensors")
    (GOLDEN / "cases.json").write_text(json.dumps(cases, indent=2) + "\n")
    print(f"{len(cases)} cases, {sum(path.stat().st_size for path in GOLDEN.rglob('*') if path.is_file())} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
