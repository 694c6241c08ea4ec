"""The command that converts SAEs: the same numbers afterwards, or a message and nothing written."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from published_saes import all_configs, assert_same, filled, rows
from saelens_forward import forward
from safetensors.torch import save_file

from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.published.convert import main
from workflow.formats.published.ohhmoo import write_ohhmoo
from workflow.formats.published.saelens_writing import write_saelens
from workflow.formats.published.sniff import read_any

CONFIGS = dict(all_configs())
OHHMOO = "sae_base_layer12.pt"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_signed_top_k_becomes_a_folder_for_saelens_where_rows_allow_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sae, x = filled(CONFIGS["topk_signed-own-scale"], offset=12.0), rows(count=40)
    write_ohhmoo(tmp_path / OHHMOO, sae)
    with caplog.at_level(logging.INFO):
        assert run(tmp_path / OHHMOO, tmp_path / "out", "--format", "saelens") == 1
    assert "needs rows to check" in caplog.text
    assert not (tmp_path / "out").exists()
    save_file({"activations": x, "token": torch.arange(40)}, tmp_path / "rows.safetensors")
    assert run(tmp_path / OHHMOO, tmp_path / "out", "--format", "saelens", "--rows", tmp_path / "rows.safetensors") == 0
    assert_same(forward(tmp_path / "out", x)[1], sae(x))
    metadata = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.12.hook_resid_post"
    assert metadata["signed_topk"] == {"negative_share": 0.0, "rows": 40}
    assert metadata["converted_from"]["format"] == "ohhmoo"


def test_a_folder_of_saelens_becomes_a_file_of_ohhmoo(tmp_path: Path) -> None:
    sae, x = filled(CONFIGS["topk_relu-decoder-scale"], offset=12.0), rows(count=40)
    write_saelens(tmp_path / "in", sae, "blocks.12.hook_resid_post")
    save_file({"x": x}, tmp_path / "rows.safetensors")
    assert run(tmp_path / "in", tmp_path / OHHMOO, "--format", "ohhmoo", "--rows", tmp_path / "rows.safetensors") == 0
    assert_same(read_any(tmp_path / OHHMOO).model(x), sae(x))


def test_an_old_folder_becomes_a_new_one_and_keeps_its_metadata(tmp_path: Path) -> None:
    sae = filled(CONFIGS["relu-decoder-scale"], scale=1.0)
    write_saelens(tmp_path / "in", sae, "blocks.3.attn.hook_z")
    old = {"d_in": 6, "d_sae": 20, "dtype": "torch.float32", "hook_name": "blocks.3.attn.hook_z", "context_size": 64, "lr": 0.1}
    (tmp_path / "in" / "cfg.json").write_text(json.dumps(old))
    assert run(tmp_path / "in", tmp_path / "out", "--format", "saelens", "--model-name", "tiny") == 0
    cfg = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert (cfg["architecture"], cfg["reshape_activations"], cfg["apply_b_dec_to_input"]) == ("standard", "hook_z", True)
    assert (cfg["metadata"]["model_name"], cfg["metadata"]["context_size"]) == ("tiny", 64)
    assert "architecture: standard (SAELens' default of before version 6)" in cfg["metadata"]["converted_from"]["assumed"]
    assert_same(read_any(tmp_path / "out").model(rows()), sae(rows()))


@pytest.mark.parametrize("named", ["", "manifest.json", "sae.safetensors"])
def test_an_sae_of_this_project_is_a_source(tmp_path: Path, named: str) -> None:
    sae, folder = filled(CONFIGS["batchtopk-own-scale-by_norm"]), tmp_path / "layer_3"
    folder.mkdir()
    extras = {"firing_rate": torch.full((20,), 0.25), "reinitialised": torch.zeros(20, dtype=torch.bool)}
    save_file(sae.tensors() | extras, folder / "sae.safetensors")
    conventions = {name: value for name, value in vars(sae.config).items() if name not in ("d_model", "d_sae")} | {"widths": None}
    write_manifest(
        folder / "manifest.json", "sae", d_model=6, d_sae=20, kind="batchtopk", stage="base", hook_point="blocks.3.hook_resid_post",
        digest=file_digest(folder / "sae.safetensors"), **conventions,
    )  # fmt: skip
    assert run(folder / named, tmp_path / "out", "--format", "saelens") == 0
    found = read_any(tmp_path / "out")
    assert_same(found.model(rows()), sae(rows()))
    assert found.firing_rate is not None
    torch.testing.assert_close(found.firing_rate, extras["firing_rate"])
    assert found.facts.about["converted_from"]["stage"] == "base"
    assert run(folder / named, tmp_path / "again", "--format", "saelens", "--k", 5) == 1
    assert not (tmp_path / "again").exists()


def test_the_hook_point_must_be_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    pair = {"encoder.weight": (20, 6), "encoder.bias": (20,), "decoder.weight": (6, 20), "decoder.bias": (6,)}
    torch.save({name: torch.randn(shape) for name, shape in pair.items()}, tmp_path / "x.pt")
    assert run(tmp_path / "x.pt", tmp_path / "out", "--format", "saelens", "--from", "qresearch") == 1
    assert "SAELens must be told where rows come from" in caplog.text
    arguments = ("--format", "saelens", "--from", "qresearch", "--hook-point", "blocks.9.hook_resid_pre")
    assert run(tmp_path / "x.pt", tmp_path / "out", *arguments) == 0
    assert_same(forward(tmp_path / "out", rows())[1], read_any(tmp_path / "x.pt", format="qresearch").model(rows()))


def test_nothing_is_replaced_without_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_saelens(tmp_path / "in", filled(CONFIGS["gated-none-scale"], 1), "blocks.3.hook_resid_post")
    write_saelens(tmp_path / "out", filled(CONFIGS["gated-none-scale"], 2), "blocks.3.hook_resid_post")
    before = read_any(tmp_path / "out").model(rows())
    assert run(tmp_path / "in", tmp_path / "out", "--format", "saelens") == 1
    assert "must not hold an SAE yet" in caplog.text
    assert torch.equal(read_any(tmp_path / "out").model(rows()), before)
    assert run(tmp_path / "in", tmp_path / "out", "--format", "saelens", "--force") == 0
    assert_same(read_any(tmp_path / "out").model(rows()), read_any(tmp_path / "in").model(rows()))


@pytest.mark.parametrize(
    "content", [{}, {"a": torch.ones(3), "b": torch.ones(3)}, {"activations": torch.ones(3)}, {"x": torch.ones(0, 6)}]
)
def test_rows_must_be_one_matrix(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: dict) -> None:
    write_ohhmoo(tmp_path / OHHMOO, filled(CONFIGS["topk_signed-own-scale"]))
    save_file(content, tmp_path / "rows.safetensors")
    assert run(tmp_path / OHHMOO, tmp_path / "out", "--format", "saelens", "--rows", tmp_path / "rows.safetensors") == 1
    assert "Rows must stand in a file of tensors as a matrix `activations`" in caplog.text


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("--help")
    told = capsys.readouterr().out
    assert left.value.code == 0
    assert "docs/formats.md" in told
    assert "--norm-scaling-factor" in told


def test_the_command_fails_with_a_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workflow.formats.published.convert", "nowhere", str(tmp_path / "out"), "--format", "saelens"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr == "nowhere must be a file or folder with an SAE; there is nothing of that name. Correct the path.\n"
