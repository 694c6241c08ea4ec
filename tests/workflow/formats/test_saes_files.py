"""SAEs on disk: what is written is read, equal tensors give equal bytes, foreign files are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.config import SAEConfig
from sae_core.models.topk import TENSORS, TopKSAE, initial
from workflow.config.section import ConfigError
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.saes import read_sae, write_sae, write_sae_manifest

CONFIG = SAEConfig(6, 20, 3)
ROWS = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 2


def write(folder: Path, seed: int = 0, kind: str = "topk") -> TopKSAE:
    folder.mkdir(parents=True, exist_ok=True)
    sae = initial(CONFIG, ROWS, seed)
    digest = write_sae(folder / "sae.safetensors", sae.tensors(), torch.full((20,), 0.25), torch.arange(20) == 7)
    write_sae_manifest(folder / "manifest.json", CONFIG, kind=kind, digest=digest)
    return sae


def test_what_was_written_is_read(tmp_path: Path):
    sae = write(tmp_path)
    stored = read_sae(tmp_path / "manifest.json")
    assert stored.model.config == CONFIG
    assert torch.equal(stored.model(ROWS), sae(ROWS))
    assert stored.extras["reinitialised"].nonzero().tolist() == [[7]]
    assert stored.extras["firing_rate"].tolist() == [0.25] * 20
    assert stored.facts["digest"] == file_digest(tmp_path / "sae.safetensors")


def test_the_kind_sets_the_activation(tmp_path: Path):
    write(tmp_path, kind="topk_signed")
    assert read_sae(tmp_path / "manifest.json").model.config.activation == "signed"


def test_the_file_is_read_by_any_safetensors_reader(tmp_path: Path):
    write(tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    assert set(tensors) == {*TENSORS, "firing_rate", "reinitialised"}
    assert {tensor.dtype for name, tensor in tensors.items() if name != "reinitialised"} == {torch.float32}


def test_equal_tensors_give_equal_bytes(tmp_path: Path):
    for name in ("one", "two"):
        write(tmp_path / name)
    assert (tmp_path / "one/sae.safetensors").read_bytes() == (tmp_path / "two/sae.safetensors").read_bytes()


def test_an_sae_that_is_not_the_manifests_is_refused(tmp_path: Path):
    write(tmp_path / "one", seed=1)
    write(tmp_path / "two", seed=2)
    (tmp_path / "two/sae.safetensors").replace(tmp_path / "one/sae.safetensors")
    with pytest.raises(ConfigError, match=r"must have the digest .* that its manifest names; got .*Delete the manifest"):
        read_sae(tmp_path / "one/manifest.json")
    with pytest.raises(ConfigError, match="got nothing"):
        read_sae(tmp_path / "two/manifest.json")


def test_a_file_without_all_tensors_is_refused(tmp_path: Path):
    tensors = initial(CONFIG, ROWS, 0).tensors()
    del tensors["b_pre"]
    save_file(tensors, tmp_path / "sae.safetensors")
    digest = file_digest(tmp_path / "sae.safetensors")
    write_manifest(tmp_path / "manifest.json", "sae", d_model=6, d_sae=20, k=3, kind="topk", digest=digest)
    with pytest.raises(ConfigError, match="b_pre, firing_rate, reinitialised are missing"):
        read_sae(tmp_path / "manifest.json")
