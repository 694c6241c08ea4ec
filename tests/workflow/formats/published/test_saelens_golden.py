"""Folders that SAELens saved give the codes and reconstructions that SAELens computed (tests/tools/make_saelens_golden.py)."""

import json
from pathlib import Path

import pytest
import torch
from published_saes import assert_same
from saelens_forward import forward
from safetensors.torch import load_file

from workflow.formats.published.sniff import read_any

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
EXPECTED = load_file(GOLDEN / "expected.safetensors")
HOOK = "blocks.3.hook_resid_post"


@pytest.mark.parametrize("case", CASES)
def test_what_saelens_saved_computes_what_saelens_computed(case: str) -> None:
    found, rows = read_any(GOLDEN / case, **CASES[case]), EXPECTED["rows"]
    codes = EXPECTED[f"{case}/codes"]
    assert_same(found.model.encode_dense(rows), codes)
    assert_same(found.model(rows), EXPECTED[f"{case}/reconstruction"])
    assert (codes != 0).any(1).all()
    assert (found.facts.hook_point, found.facts.side, found.facts.layer) == (HOOK, "output", 3)
    assert found.facts.about["model_name"] == "tiny"


def test_every_kind_is_there() -> None:
    found = {read_any(GOLDEN / case, **given).model.config for case, given in CASES.items()}
    kinds = {type(config).__name__.removesuffix("Config") for config in found}
    assert kinds == {"Relu", "TopK", "JumpReLU", "Gated", "BatchTopK", "Matryoshka"}
    assert {config.normalise for config in found} == {"scale", "row_norm", "layer_norm"}
    assert {config.pre_bias for config in found} == {"decoder", "none"}


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.startswith("old") and "training" not in case and not CASES[case]]
)
def test_the_written_down_forward_pass_of_saelens_is_its_own(case: str) -> None:
    codes, reconstruction = forward(GOLDEN / case, EXPECTED["rows"])
    assert_same(codes, EXPECTED[f"{case}/codes"])
    assert_same(reconstruction, EXPECTED[f"{case}/reconstruction"])


def test_weights_in_half_precision_are_read_as_float32() -> None:
    found = read_any(GOLDEN / "standard-bfloat16")
    assert found.facts.dtype == "bfloat16"
    assert {tensor.dtype for tensor in found.model.tensors().values()} == {torch.float32}


def test_inference_models_say_how_they_were_trained() -> None:
    about = read_any(GOLDEN / "matryoshka_batchtopk-inference").facts.about
    assert about["training_architecture"] == "matryoshka_batchtopk"
    assert about["training_architecture_details"]["matryoshka_widths"] == [4, 9, 20]


def test_what_an_older_configuration_leaves_out_is_told() -> None:
    assumed = " / ".join(read_any(GOLDEN / "old_standard").facts.assumed)
    assert "architecture: standard" in assumed
    assert "apply_b_dec_to_input: true" in assumed
    assert read_any(GOLDEN / "topk-none").facts.assumed == ()
