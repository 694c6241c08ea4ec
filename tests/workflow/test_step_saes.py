"""Released step-level SAEs: read strictly, whatever surrounds their weights; refused with what disagrees."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, Qwen2Config

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from workflow.config.section import ConfigError
from workflow.formats.published.step_saes import PublishedStepSAE, read_published, write_published
from workflow.step_saes import filled_step_sae, fresh_step_sae, released_shapes
from workflow.step_tokens import step_tokenizer

KEYS = Path(__file__).parent / "formats" / "step_sae_keys"
QWEN = Qwen2Config(
    vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
    num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip
LLAMA = LlamaConfig(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
    num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_qwen2: Path) -> StepSAE:
    torch.manual_seed(0)
    return fresh_step_sae(tiny_qwen2, factor=2, blocks=None, vocab=step_tokenizer(tiny_qwen2).vocab, prior=True).eval()


@pytest.fixture
def file(trained: StepSAE, tmp_path: Path) -> Path:
    config = {"n_inputs": 896, "n_latents": 896, "init_from": ("./Qwen2.5-0.5B", "./Qwen2.5-0.5B")}
    write_published(
        tmp_path / "released.pt", trained.state_dict(), base_model="./Qwen2.5-0.5B", training={"global_step": 7, "config": config}
    )
    return tmp_path / "released.pt"


def batch() -> StepBatch:
    ids = torch.randint(3, 200, (3, 14), generator=torch.Generator().manual_seed(0))
    return StepBatch(ids, torch.tensor([4, 2, 6]), torch.tensor([14, 9, 12]))


@pytest.mark.parametrize(("config", "name", "vocab"), [(QWEN, "qwen2.5-0.5b", 151666), (LLAMA, "llama-3.2-1b", 128257)])
def test_names_shapes_and_order_are_the_released_ones(config: Any, name: str, vocab: int, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    lines = [line.split("\t") for line in (KEYS / f"{name}.tsv").read_text(encoding="utf-8").splitlines()]
    released = {key: tuple(map(int, shape.split("x"))) for key, shape in lines}
    found = released_shapes(tmp_path, vocab=vocab, factor=1)
    assert list(found.items()) == list(released.items())


@pytest.mark.parametrize("factor", [2, 4])
def test_more_soft_tokens_widen_the_code_alone(factor: int, tmp_path: Path) -> None:
    QWEN.save_pretrained(tmp_path)
    one, more = (released_shapes(tmp_path, vocab=151666, factor=c) for c in (1, factor))
    assert list(one) == list(more)
    assert more["mean_mlp.2.weight"] == (factor * 448, factor * 112)
    assert more["projection_mlp.0.weight"] == (factor * 896, factor * 896)


def test_a_file_comes_back_bit_by_bit(trained: StepSAE, file: Path, tiny_qwen2: Path) -> None:
    published = read_published(file)
    assert published.sizes == (64, 2, trained.state_dict()["encoder.embed_tokens.weight"].shape[0], 2)
    assert published.base_model == "./Qwen2.5-0.5B"
    assert published.training["global_step"] == 7
    model = filled_step_sae(published, tiny_qwen2, prior=True)
    expected, found = trained.state_dict(), model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.decoder.lm_head.weight is model.decoder.model.embed_tokens.weight
    assert torch.equal(model.encode(batch()), trained.encode(batch()))


def test_a_file_written_again_has_the_same_names_and_one_storage_for_the_tied_head(
    file: Path, tiny_qwen2: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.pt"
    write_published(again, filled_step_sae(read_published(file), tiny_qwen2, prior=True).state_dict(), base_model="x", training={})
    raw = torch.load(again, weights_only=True)["model"]
    assert list(raw) == list(torch.load(file, weights_only=True)["model"])
    assert raw["decoder.lm_head.weight"].data_ptr() == raw["decoder.model.embed_tokens.weight"].data_ptr()


def bare(state: dict[str, Tensor]) -> Any:
    return state


def unnamed(state: dict[str, Tensor]) -> Any:
    return {"model": state}


def resumed(state: dict[str, Tensor]) -> Any:
    return {"model": state, "encoder_name": "resume"}


def wrapped(state: dict[str, Tensor]) -> Any:
    return {"model": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}}


def without_hints(state: dict[str, Tensor]) -> Any:
    return {"model": {name: tensor for name, tensor in state.items() if not name.startswith("hints_encoder.")}}


@pytest.mark.parametrize("form", [bare, unnamed, resumed, wrapped, without_hints])
def test_every_form_of_a_file_gives_the_same_codes(form: Any, trained: StepSAE, tiny_qwen2: Path, tmp_path: Path) -> None:
    torch.save(form(trained.state_dict()), tmp_path / "file.pt")
    published = read_published(tmp_path / "file.pt")
    assert published.base_model is None
    assert torch.equal(filled_step_sae(published, tiny_qwen2).encode(batch()), trained.encode(batch()))


def test_a_file_of_bfloat16_is_computed_in_the_dtype_asked_for(trained: StepSAE, tiny_qwen2: Path, tmp_path: Path) -> None:
    torch.save({"model": {name: tensor.bfloat16() for name, tensor in trained.state_dict().items()}}, tmp_path / "file.pt")
    model = filled_step_sae(read_published(tmp_path / "file.pt"), tiny_qwen2)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.isfinite(model.encode(batch())).all()


def test_the_file_of_an_old_torch_is_read(trained: StepSAE, tiny_qwen2: Path, tmp_path: Path) -> None:
    torch.save({"model": trained.state_dict()}, tmp_path / "file.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(filled_step_sae(read_published(tmp_path / "file.pt"), tiny_qwen2).encode(batch()), trained.encode(batch()))


class Refused:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


def test_a_pickle_with_code_is_never_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Refused()}, tmp_path / "file.pt")
    with pytest.raises(ConfigError, match="Nothing of it was executed"):
        read_published(tmp_path / "file.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short_is_named(file: Path, share: float, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(ConfigError, match=r"cut\.pt"):
        read_published(cut)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.pt does not exist"):
        read_published(tmp_path / "nothing.pt")


@pytest.mark.parametrize("content", [{"model": 3}, {"model": {"weight": torch.zeros(2)}}, [torch.zeros(2)]])
def test_other_files_of_torch_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ConfigError, match="weights of a step-level SAE"):
        read_published(tmp_path / "file.pt")


def test_the_wrong_base_model_is_told_by_its_shapes(file: Path, tiny_llama: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"encoder\.layers\.0\.self_attn\.q_proj\.bias is 64 there and absent in the llama, .* and \d+ more"
    ):
        filled_step_sae(read_published(file), tiny_llama)


def test_a_base_model_of_another_width_is_told_by_its_shapes(file: Path, tiny_qwen2: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_qwen2, tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"gate_proj\.weight is 128×64 there and 96×64 in the qwen2"):
        filled_step_sae(read_published(file), other)


def test_a_prior_that_the_file_lacks_is_refused(trained: StepSAE, tiny_qwen2: Path) -> None:
    published = PublishedStepSAE(without_hints(trained.state_dict())["model"], None, {})
    with pytest.raises(ConfigError, match="it holds none"):
        filled_step_sae(published, tiny_qwen2, prior=True)


def test_a_missing_tensor_is_named(trained: StepSAE, tiny_qwen2: Path) -> None:
    state = {name: tensor for name, tensor in trained.state_dict().items() if name != "projection_mlp.2.bias"}
    with pytest.raises(ConfigError, match=r"projection_mlp\.2\.bias is absent there"):
        filled_step_sae(PublishedStepSAE(state, None, {}), tiny_qwen2)


def test_fewer_blocks_make_a_smaller_model(tiny_qwen2: Path) -> None:
    small = fresh_step_sae(tiny_qwen2, factor=1, blocks=1, vocab=step_tokenizer(tiny_qwen2).vocab)
    assert PublishedStepSAE(small.state_dict(), None, {}).sizes.blocks == 1
    with pytest.raises(ConfigError, match="must be 1 to 2"):
        fresh_step_sae(tiny_qwen2, factor=1, blocks=3, vocab=300)
