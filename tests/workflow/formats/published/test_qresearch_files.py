"""Files of qresearch: ReLU between two nn.Linear, on the input of a block."""

from pathlib import Path

import pytest
import torch
from published_saes import D_MODEL, D_SAE, assert_same, rows
from torch import nn

from workflow.config.section import ConfigError
from workflow.formats.published.sniff import read_any

NAME = "Llama-3.2-1B-Instruct-SAE-l9.pt"


def linear_pair(dtype: torch.dtype = torch.float32, d_sae: int = D_SAE) -> nn.ModuleDict:
    torch.manual_seed(0)
    pair = nn.ModuleDict({"encoder": nn.Linear(D_MODEL, d_sae), "decoder": nn.Linear(d_sae, D_MODEL)})
    return pair.requires_grad_(False).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_and_reconstruction_are_those_of_the_two_layers(tmp_path: Path, dtype: torch.dtype) -> None:
    pair, x = linear_pair(dtype), rows()
    torch.save(pair.state_dict(), tmp_path / NAME)
    found, pair = read_any(tmp_path / NAME), pair.float()
    codes = pair["encoder"](x).relu()
    assert_same(found.model.encode_dense(x), codes)
    assert_same(found.model(x), pair["decoder"](codes))
    assert found.facts.dtype == str(dtype).removeprefix("torch.")


def test_rows_are_the_input_of_the_block_the_output_of_the_one_before(tmp_path: Path) -> None:
    torch.save(linear_pair().state_dict(), tmp_path / NAME)
    facts = read_any(tmp_path / NAME).facts
    assert (facts.format, facts.hook_point, facts.side, facts.block, facts.layer) == (
        "qresearch", "blocks.9.hook_resid_pre", "input", 9, 8
    )  # fmt: skip
    assert facts.about["model_name"] == "Llama-3.2-1B-Instruct"
    assert "reads the input of the block" in facts.assumed[0]


def test_the_caller_may_know_better_where_rows_come_from(tmp_path: Path) -> None:
    torch.save(linear_pair().state_dict(), tmp_path / NAME)
    facts = read_any(tmp_path / NAME, hook_point="blocks.9.hook_resid_post").facts
    assert (facts.side, facts.layer) == ("output", 9)


def test_another_name_needs_the_format(tmp_path: Path) -> None:
    torch.save(linear_pair().state_dict(), tmp_path / "final.pt")
    with pytest.raises(ConfigError, match=r"must tell whose it is: .* Name the format: qresearch or ohhmoo"):
        read_any(tmp_path / "final.pt")
    found = read_any(tmp_path / "final.pt", format="qresearch")
    assert (found.facts.hook_point, found.facts.side, found.facts.layer) == (None, None, None)


def test_square_layers_need_a_word(tmp_path: Path) -> None:
    pair = linear_pair(d_sae=D_MODEL)
    torch.save(pair.state_dict(), tmp_path / NAME)
    with pytest.raises(ConfigError, match="Say how the encoder is stored"):
        read_any(tmp_path / NAME)
    found = read_any(tmp_path / NAME, encoder="latent_first")
    assert_same(found.model(rows()), pair["decoder"](pair["encoder"](rows()).relu()))
