"""SAEs on disk: what is written is read, equal tensors give equal bytes, foreign files are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.models.build import initial
from sae_core.models.sae import SAE
from sae_core.training.records import Moments, Trained
from workflow.config.section import ConfigError
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.saes import config_of, facts_of, read_sae, write_sae, write_sae_manifest

D, D_SAE = 6, 20
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("topk", {"k": 3}),
    "topk_signed": ("topk_signed", {"k": 3}),
    "topk_absolute": ("topk_absolute", {"k": 3}),
    "batchtopk": ("batchtopk", {"k": 3}),
    "matryoshka_batchtopk": ("matryoshka_batchtopk", {"k": 3, "widths": [5, 20]}),
    "relu": ("relu", {}),
    "jumprelu": ("jumprelu", {}),
    "gated": ("gated", {}),
    "tied bias": ("topk", {"k": 3, "pre_bias": "decoder"}),
    "no bias, rows of one norm": ("relu", {"pre_bias": "none", "normalise": "row_norm"}),
    "layer norm, decoder norms": ("batchtopk", {"k": 3, "normalise": "layer_norm", "decoder_norm": True}),
}
ROWS = torch.randn(50, D, generator=torch.Generator().manual_seed(0)) + 2


def write(folder: Path, form: str = "topk", seed: int = 0, moments: Moments | None = None) -> SAE:
    folder.mkdir(parents=True, exist_ok=True)
    kind, conventions = FORMS[form]
    config = config_of(kind, D, D_SAE, **conventions)
    sae = initial(config, ROWS, seed, threshold=0.3)
    with torch.no_grad():
        for name in sae.trained:
            tensor = getattr(sae, name)
            tensor += 0.1 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed))
    trained = Trained(sae.tensors(), torch.full((D_SAE,), 0.25), torch.arange(D_SAE) == 7, 1, moments)
    digest = write_sae(folder / "sae.safetensors", trained)
    write_sae_manifest(folder / "manifest.json", config, kind=kind, digest=digest)
    return sae


@pytest.mark.parametrize("form", FORMS)
def test_what_was_written_is_read_in_every_form(tmp_path: Path, form: str):
    sae = write(tmp_path, form)
    stored = read_sae(tmp_path / "manifest.json")
    assert stored.model.config == sae.config
    assert type(stored.model) is type(sae)
    assert torch.equal(stored.model(ROWS), sae(ROWS))
    assert stored.extras["reinitialised"].nonzero().tolist() == [[7]]
    assert stored.extras["firing_rate"].tolist() == [0.25] * D_SAE
    assert stored.facts["digest"] == file_digest(tmp_path / "sae.safetensors")
    assert stored.moments is None
    tensors = load_file(tmp_path / "sae.safetensors")
    assert set(tensors) == {*sae.shapes(sae.config), "firing_rate", "reinitialised"}
    assert {tensor.dtype for name, tensor in tensors.items() if name != "reinitialised"} == {torch.float32}
    assert facts_of(config_of(stored.facts["kind"], **facts_of(sae.config))) == facts_of(sae.config)


def test_moments_lie_in_the_file_under_the_names_of_their_tensors(tmp_path: Path):
    kind, conventions = FORMS["gated"]
    shapes = initial(config_of(kind, D, D_SAE, **conventions), ROWS, 0)
    first = {name: torch.randn(getattr(shapes, name).shape) for name in shapes.trained}
    second = {name: tensor.square() for name, tensor in first.items()}
    write(tmp_path, "gated", moments=Moments(155, first, second))
    tensors = load_file(tmp_path / "sae.safetensors")
    assert tensors["first_moment.W_enc"].shape == (D_SAE, D)
    assert int(tensors["moment_updates"]) == 155
    found = read_sae(tmp_path / "manifest.json").moments
    assert found is not None
    assert found.count == 155
    assert found.first.keys() == found.second.keys() == set(shapes.trained)
    assert all(torch.equal(found.second[name], second[name]) for name in second)


@pytest.mark.parametrize(("kind", "keep"), [("topk", "relu"), ("topk_signed", "signed")])
def test_a_manifest_from_before_there_were_other_kinds_is_read(tmp_path: Path, kind: str, keep: str):
    sae = write(tmp_path, kind)
    facts = json.loads((tmp_path / "manifest.json").read_text())
    for name in ("widths", "pre_bias", "normalise", "decoder_norm"):
        del facts[name]
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    stored = read_sae(tmp_path / "manifest.json")
    assert stored.model.config == config_of(kind, D, D_SAE, k=3)
    assert stored.model.config.keep == keep
    assert torch.equal(stored.model(ROWS), sae(ROWS))


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


def test_a_kind_of_a_later_version_is_refused(tmp_path: Path):
    write(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"topk"', '"hyperbolic"'))
    with pytest.raises(ValueError, match=r"got 'hyperbolic'\. Read it with a newer one"):
        read_sae(tmp_path / "manifest.json")


@pytest.mark.parametrize(("kind", "lost"), [("topk", "b_pre"), ("jumprelu", "threshold"), ("gated", "r_mag")])
def test_a_file_without_all_tensors_is_refused(tmp_path: Path, kind: str, lost: str):
    tensors = initial(config_of(kind, D, D_SAE, k=3), ROWS, 0).tensors()
    del tensors[lost]
    save_file(tensors, tmp_path / "sae.safetensors")
    digest = file_digest(tmp_path / "sae.safetensors")
    write_manifest(tmp_path / "manifest.json", "sae", d_model=D, d_sae=D_SAE, k=3, kind=kind, digest=digest)
    with pytest.raises(ConfigError, match=f"{lost}, firing_rate, reinitialised are missing"):
        read_sae(tmp_path / "manifest.json")
