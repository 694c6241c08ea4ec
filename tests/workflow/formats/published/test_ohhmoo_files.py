"""Files of OhhMoo's SAE-RL: read and written as its module computes them, k and place from wherever they stand."""

from pathlib import Path

import pytest
import torch
from published_saes import D_MODEL, D_SAE, all_configs, assert_same, filled, rows
from torch import Tensor, nn

from sae_core.config.sae import TopKConfig
from workflow.config.section import ConfigError
from workflow.formats.published.ohhmoo import place, write_ohhmoo
from workflow.formats.published.sniff import read_any

CONFIGS = dict(all_configs())
NAME = "sae_ppo_step30_layer12.pt"


class Theirs(nn.Module):
    """Signed top-k between two nn.Linear, the input centred by b_pre, which is not added back."""

    def __init__(self, k: int, centred: bool = True) -> None:
        super().__init__()
        self.k = k
        if centred:
            self.b_pre = nn.Parameter(torch.zeros(D_MODEL))
        self.encoder, self.decoder = nn.Linear(D_MODEL, D_SAE), nn.Linear(D_SAE, D_MODEL)

    def encode(self, x: Tensor) -> Tensor:
        z = self.encoder(x - self.b_pre if hasattr(self, "b_pre") else x)
        values, latents = z.topk(self.k, dim=-1)
        return torch.zeros_like(z).scatter(-1, latents, values)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encode(x))


def theirs(k: int = 4, centred: bool = True, seed: int = 0) -> Theirs:
    """Random, with columns of norm 1 in the decoder."""
    module, draw = Theirs(k, centred).requires_grad_(False), torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    module.decoder.weight.div_(module.decoder.weight.norm(dim=0))
    module.encoder.bias.sub_(5)  # some selected values are negative
    return module


def loaded(path: Path) -> Theirs:
    """What the project's scripts make of a file."""
    file = torch.load(path, weights_only=True)
    module = Theirs(file["config"]["k"]).requires_grad_(False)
    module.load_state_dict(file["state_dict"])
    return module


def config(k: int = 4, **more: object) -> dict[str, object]:
    return {"d_model": D_MODEL, "d_sae": D_SAE, "k": k, "source": "ppo_step30_layer12", "seed": None, **more}


def test_a_wrapped_file_computes_what_its_module_computes(tmp_path: Path) -> None:
    module = theirs()
    torch.save({"state_dict": module.state_dict(), "config": config(best_val_loss=0.25)}, tmp_path / NAME)
    found, x = read_any(tmp_path / NAME), rows()
    assert_same(found.model.encode_dense(x), module.encode(x))
    assert_same(found.model(x), module(x))
    assert (module.encode(x) < 0).any()
    assert isinstance(found.model.config, TopKConfig)
    assert (found.model.config.k, found.model.config.keep) == (4, "signed")
    facts = found.facts
    assert (facts.format, facts.hook_point, facts.side, facts.layer) == ("ohhmoo", "blocks.12.hook_resid_post", "output", 12)
    assert (facts.about["stage"], facts.about["best_val_loss"], facts.assumed, facts.dtype) == ("ppo_step30", 0.25, (), "float32")


@pytest.mark.parametrize(
    ("name", "k"),
    [("saes_k3/" + NAME, 3), ("saes_l23_k6/" + NAME, 6), ("saes_k3/sub/" + NAME, 3), ("saes_k3/sae_base_layer12_k5_exp8.pt", 5)],
)
def test_k_of_a_bare_state_dict_stands_in_a_name(tmp_path: Path, name: str, k: int) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    torch.save(theirs(k).state_dict(), tmp_path / name)
    found = read_any(tmp_path / name)
    assert_same(found.model(rows()), theirs(k)(rows()))
    assert any(line.startswith(f"k: {k} (from the name") for line in found.facts.assumed)
    with pytest.raises(ConfigError, match=rf"k must be what the name \S+ says, {k}; got 9"):
        read_any(tmp_path / name, k=9)


def test_k_that_stands_nowhere_must_be_given(tmp_path: Path) -> None:
    torch.save(theirs(4).state_dict(), tmp_path / NAME)
    with pytest.raises(ConfigError, match=r"k must be known; .* has none in its config, .* Give k"):
        read_any(tmp_path / NAME)
    assert_same(read_any(tmp_path / NAME, k=4).model(rows()), theirs(4)(rows()))


def test_the_first_revisions_without_b_pre_are_read(tmp_path: Path) -> None:
    module = theirs(centred=False)
    torch.save({"state_dict": module.state_dict(), "config": config()}, tmp_path / NAME)
    found = read_any(tmp_path / NAME)
    assert_same(found.model(rows()), module(rows()))
    assert any(line.startswith("b_pre: 0") for line in found.facts.assumed)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sae_instruct_base_layer6.pt", ("instruct_base", 6, "")),
        ("sae_ppo_step116_layer23_k256_exp8.pt", ("ppo_step116", 23, "_k256_exp8")),
        ("sae_multi_layer_run_layer18_seed42.pt", ("multi_layer_run", 18, "_seed42")),
        ("sae_layer6.pt", None),
        ("other_base_layer6.pt", None),
    ],
)
def test_the_place_is_split_at_the_last_layer(name: str, expected: tuple | None) -> None:
    assert place(Path(name)) == expected


def test_a_config_that_is_not_the_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": theirs().state_dict(), "config": config() | {"d_sae": 99}}, tmp_path / NAME)
    with pytest.raises(ConfigError, match=r"d_sae must be what the shape in .* says, 20; got 99"):
        read_any(tmp_path / NAME)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("topk_signed") and "-scale" in name])
def test_what_is_written_is_what_their_module_computes(tmp_path: Path, name: str) -> None:
    sae, x = filled(CONFIGS[name], 2), rows(4)
    write_ohhmoo(tmp_path / NAME, sae)
    module = loaded(tmp_path / NAME)
    assert_same(module(x), sae(x))
    assert_same(module.encode(x), 1.7 * sae.encode_dense(x))
    assert_same(read_any(tmp_path / NAME).model(x), sae(x))
    assert torch.load(tmp_path / NAME, weights_only=True)["config"]["code_scale"] == pytest.approx(1.7)


def test_columns_of_norm_1_stay_so(tmp_path: Path) -> None:
    sae = filled(CONFIGS["topk_signed-decoder-scale-by_norm"])
    write_ohhmoo(tmp_path / NAME, sae)
    torch.testing.assert_close(loaded(tmp_path / NAME).decoder.weight.norm(dim=0), torch.ones(D_SAE))


def test_top_k_with_relu_is_written_where_it_makes_no_difference(tmp_path: Path) -> None:
    config = CONFIGS["topk_relu-own-scale"]
    positive, mixed, x = filled(config, offset=12.0), filled(config, offset=-1.0), rows()
    with pytest.raises(ConfigError, match=r"needs rows to check .* because there they stay as they are; got none"):
        write_ohhmoo(tmp_path / NAME, positive)
    with pytest.raises(ConfigError, match="No selected value may be negative where relu top-k is written as OhhMoo's top-k"):
        write_ohhmoo(tmp_path / NAME, mixed, rows=x)
    write_ohhmoo(tmp_path / NAME, positive, rows=x)
    assert_same(loaded(tmp_path / NAME)(x), positive(x))
    write_ohhmoo(tmp_path / NAME, mixed, rows=x, approximate=True, force=True)
    share = torch.load(tmp_path / NAME, weights_only=True)["config"]["relu_topk"]["negative_share"]
    assert share == pytest.approx((loaded(tmp_path / NAME).encode(x) < 0).sum().item() / (5 * len(x)))


@pytest.mark.parametrize("name", ["relu-own-scale", "topk_absolute-own-scale", "topk_signed-own-layer_norm", "batchtopk-own-scale"])
def test_what_has_no_equal_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"has an equal in OhhMoo's format; got .* Write it for SAELens"):
        write_ohhmoo(tmp_path / NAME, filled(CONFIGS[name]))
    assert not list(tmp_path.iterdir())


def test_names_and_files_that_are_there_are_respected(tmp_path: Path) -> None:
    sae = filled(CONFIGS["topk_signed-own-scale"])
    with pytest.raises(ConfigError, match=r"must be named sae_<stage>_layer<number>.pt; got mine.pt"):
        write_ohhmoo(tmp_path / "mine.pt", sae)
    write_ohhmoo(tmp_path / NAME, sae)
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(ConfigError, match="must not exist yet; it does"):
        write_ohhmoo(tmp_path / NAME, sae)
    write_ohhmoo(tmp_path / NAME, sae, force=True)
    assert (tmp_path / NAME).read_bytes() == before
