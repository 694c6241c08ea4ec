"""Trainings of step-level SAEs from files to files: killed and gone on with, published, read again, started from each other."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import original_step_sae as original
import pytest
import torch
from small_steps import write_lines
from transformers import AutoModel

from sae_core.models.step_batch import StepBatch
from sae_core.training.step_trainer import StepTrainer
from workflow.config.section import ConfigError
from workflow.config.ssae import SsaeConfig
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.published.step_saes import read_published, read_published_moments
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.ssae.training import train_step_sae
from workflow.step_saes import filled_step_sae, released_shapes, stored_step_sae


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Some 40 steps of 12 problems."""
    folder = tmp_path_factory.mktemp("steps")
    rows = [{"question": f"{n} + {n % 3}?", "answer": f"{n} + 1 = {n + 1}\nand so\nit is {n}\n#### {n * n}"} for n in range(12)]
    source = write_lines(folder / "a.json", rows)
    step_cache(source=source, tokenizer=tiny_llama, rules=StepRules(format="gsm8k"), folder=folder)
    return folder / "steps.h5"


def settings(**training: Any) -> SsaeConfig:
    usual = {"epochs": 2, "batch": 8, "micro_batch": 4, "lr": 1e-3, "min_lr": 1e-4, "warmup_epochs": 0, "decay_epochs": 2}
    more = {name: training.pop(name) for name in ("source", "given", "legacy", "sparsity", "initialisation") if name in training}
    data = {"format": "gsm8k", "train": "a.json", "valid_share": 0.25}
    return SsaeConfig(**{"data": data, "target_l1": 3.0, "blocks": 1, "training": usual | training, **more})


@pytest.fixture
def train(steps: Path, tiny_llama: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(name: str, config: SsaeConfig, **given: Any) -> dict[str, Any]:
        usual: dict[str, Any] = {"steps": steps, "given": None, "valid": None, "save_seconds": 1e9, "key": "k"}
        return train_step_sae(
            base=tiny_llama, folder=tmp_path / name, settings=config, seed=5, device="cpu", steps_digest="d",
            **(usual | given),
        )  # fmt: skip

    return run


def test_what_is_written_is_what_was_trained(train: Callable[..., dict[str, Any]], tmp_path: Path, tiny_llama: Path) -> None:
    told = train("one", settings(), published=tmp_path / "released.pt")
    model, facts = stored_step_sae(tmp_path / "one" / "manifest.json")
    with open(tmp_path / "one" / "history.csv", encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    best = min(history, key=lambda row: float(row["nll"]))
    assert facts["kept_update"] == told["kept_update"] == int(best["update"])
    assert facts["nll"] == float(best["nll"])
    assert facts["l0"] == pytest.approx(facts["active_share"] * facts["d_code"])
    assert float(history[-1]["nll"]) < float(history[0]["nll"])
    assert model.decoder.lm_head.weight is model.decoder.model.embed_tokens.weight
    assert model.hints_encoder is None
    assert not (tmp_path / ".partial").exists()
    check_released(tmp_path, tiny_llama)


def check_released(tmp_path: Path, base: Path) -> None:
    """The released layout loads strictly, with the base model as hints encoder and AdamW's state in the released order."""
    published = read_published(tmp_path / "released.pt")
    rows = published.sizes.vocab
    assert list(published.tensors) == list(released_shapes_of_one_block(base, rows))
    theirs = filled_step_sae(published, base, prior=True)
    first = theirs.hints_encoder.embed_tokens.weight[:100]
    assert torch.equal(first, AutoModel.from_pretrained(base, dtype=torch.float32).embed_tokens.weight[:100])
    theirs.train_phase(1)
    trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1.0, betas=(0.9, 0.95), weight_decay=0.01)
    raw = torch.load(tmp_path / "released.pt", weights_only=True)
    optimiser.load_state_dict(raw["optimizer"])
    assert all(optimiser.state[parameter]["exp_avg"].shape == parameter.shape for parameter in trained)
    batch = StepBatch(torch.tensor([[5, 6, rows - 1, 7, 8, 2]]), torch.tensor([3]), torch.tensor([6]))
    assert torch.equal(theirs.encode(batch), original.codes(theirs, batch.ids, batch.real.long())[:, 0])


def released_shapes_of_one_block(base: Path, vocab: int) -> list[str]:
    return [name for name in released_shapes(base, vocab=vocab, factor=1) if ".layers.1." not in name]


def test_embeddings_that_are_not_trained_stay_and_the_rest_moves(
    train: Callable[..., dict[str, Any]], tmp_path: Path, tiny_llama: Path
) -> None:
    train("one", settings(train_embeddings=False, initialisation="at_target"))
    model, facts = stored_step_sae(tmp_path / "one" / "manifest.json")
    base = AutoModel.from_pretrained(tiny_llama, dtype=torch.float32)
    rows = len(base.embed_tokens.weight)
    for language_model in (model.encoder, model.decoder.model):
        assert torch.equal(language_model.embed_tokens.weight[:rows], base.embed_tokens.weight)
        assert not torch.equal(language_model.layers[0].mlp.up_proj.weight, base.layers[0].mlp.up_proj.weight)
    assert facts["l1"] == pytest.approx(3.0, rel=0.25)
    more = settings(source="continued", given={"model": "x"}, initialisation="at_target", lr=1e-9, min_lr=1e-9)
    train("two", more, given=tmp_path / "one" / "manifest.json")
    after = stored_step_sae(tmp_path / "two" / "manifest.json")[0]
    for name, tensor in model.autoencoder.state_dict().items():
        torch.testing.assert_close(after.autoencoder.state_dict()[name], tensor, rtol=1e-4, atol=1e-4)


def test_a_released_file_needs_the_moments_of_all_tensors(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds AdamW.s moments of all tensors"):
        train("one", settings(train_embeddings=False), published=tmp_path / "released.pt")
    with pytest.raises(ConfigError, match="got True and 0"):
        train("one", settings(encoder_lr_multiple=0), published=tmp_path / "released.pt")
    assert not (tmp_path / "one").exists()


def test_an_encoder_of_multiple_0_stays_and_one_below_1_moves_less(
    train: Callable[..., dict[str, Any]], tmp_path: Path, tiny_llama: Path
) -> None:
    base = AutoModel.from_pretrained(tiny_llama, dtype=torch.float32).layers[0].mlp.up_proj.weight
    moved = []
    for multiple in (0.0, 0.1, 1.0):
        train(f"at_{multiple}", settings(encoder_lr_multiple=multiple, weight_decay=0))
        model, _ = stored_step_sae(tmp_path / f"at_{multiple}" / "manifest.json")
        moved.append(float((model.encoder.layers[0].mlp.up_proj.weight - base).detach().norm()))
    assert moved[0] == 0 < moved[1] < 0.2 * moved[2]


@pytest.mark.parametrize("phase", [1, 2])
def test_a_killed_training_goes_on_to_the_same_bytes(
    train: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: int
) -> None:
    given = None
    if phase == 2:
        train("start", settings())
        given = tmp_path / "start" / "manifest.json"
    source = {"source": "continued", "given": {"model": "x"}} if phase == 2 else {}
    start = {"initialisation": "at_target", "train_embeddings": False} if phase == 1 else {}
    config = settings(phase=phase, sparsity={"controller": "predictive"}, **source, **start)
    straight = train("straight", config, given=given)
    advance, calls = StepTrainer.advance, 0

    def killed(self: StepTrainer, batches: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise KeyboardInterrupt
        return advance(self, batches)

    monkeypatch.setattr(StepTrainer, "advance", killed)
    resumed = []
    for _ in range(20):
        try:
            resumed.append(train("pieces", config, given=given, save_seconds=0.0)["resumed_at_update"])
            break
        except KeyboardInterrupt:
            continue
    assert resumed[0] >= 4
    assert straight["resumed_at_update"] == 0
    for name in ("step_sae.safetensors", "history.csv", "manifest.json"):
        assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name


class TestWarmStart:
    def test_from_an_own_one_and_from_a_published_one_with_its_moments(
        self, train: Callable[..., dict[str, Any]], tmp_path: Path
    ) -> None:
        train("first", settings(epochs=1, decay_epochs=1, keep="last"), published=tmp_path / "first.pt")
        own, released = tmp_path / "first" / "manifest.json", tmp_path / "first.pt"
        again = {"source": "continued", "given": {"model": "x"}, "max_updates": 1, "keep": "last", "evaluations_per_epoch": 9.0}
        train("own", settings(**again), given=own)
        train("released", settings(**again), given=released)
        resuming = again | {"given": {"model": "x", "resume": True}}
        train("resumed", settings(**resuming), given=released, key="other")
        digests = [read_manifest(tmp_path / name / "manifest.json", "step_sae") for name in ("own", "released", "resumed")]
        assert digests[0]["digest"] == digests[1]["digest"] != digests[2]["digest"]
        assert digests[0]["parent"] == read_manifest(own, "step_sae")["digest"]
        assert digests[1]["parent"] == file_digest(released)
        assert read_published_moments(released)["0.step"] > 1

    def test_phase_2_reads_contexts_with_the_base_model_and_keeps_what_it_learns(
        self, train: Callable[..., dict[str, Any]], tmp_path: Path
    ) -> None:
        train("first", settings())
        later = {"source": "continued", "given": {"model": "x"}, "lr": 1e-2, "min_lr": 1e-3}
        train("second", settings(phase=2, **later), given=tmp_path / "first" / "manifest.json")
        model, facts = stored_step_sae(tmp_path / "second" / "manifest.json", prior=True)
        assert facts["phase"] == 2
        assert model.hints_encoder is not None
        first, _ = stored_step_sae(tmp_path / "first" / "manifest.json")
        assert torch.equal(model.autoencoder.encoder.weight, first.autoencoder.encoder.weight)
        train("third", settings(phase=3, **later), given=tmp_path / "second" / "manifest.json")
        third, _ = stored_step_sae(tmp_path / "third" / "manifest.json", prior=True)
        assert torch.equal(third.mean_mlp[0].weight, model.mean_mlp[0].weight)
        assert not torch.equal(third.var_mlp[0].weight, model.var_mlp[0].weight)

    def test_moments_that_a_file_lacks_are_asked_for_in_vain(self, train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
        train("first", settings(epochs=1, decay_epochs=1, max_updates=1), published=tmp_path / "first.pt")
        raw = torch.load(tmp_path / "first.pt", weights_only=True)
        torch.save({"model": raw["model"]}, tmp_path / "bare.pt")
        resuming = settings(source="continued", given={"model": "x", "resume": True})
        with pytest.raises(ConfigError, match=r"must hold them under `optimizer`"):
            train("again", resuming, given=tmp_path / "bare.pt")


def test_a_training_that_diverges_names_update_steps_and_state(
    train: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = StepTrainer.advance

    def spoilt(self: StepTrainer, batches: Any) -> Any:
        if self.update == 3:
            self.model.projection_mlp[2].bias.data[0] = float("nan")
        return advance(self, batches)

    monkeypatch.setattr(StepTrainer, "advance", spoilt)
    with pytest.raises(ConfigError, match=r"in update 4, .*ssae\.training\.lr.*Its steps are numbers \d+, .* of steps\.h5"):
        train("one", settings(), save_seconds=0.0)
    state = torch.load(tmp_path / ".partial" / "one.k" / "state.pt", weights_only=True)
    assert state["trainer"]["update"] == 3
    assert all(tensor.isfinite().all() for tensor in state["trainer"]["model"].values())


def test_all_evaluations_are_kept_where_that_is_asked(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train("one", settings(keep="all", evaluations_per_epoch=1.0))
    found = sorted(path.name for path in (tmp_path / "one").glob("update_*.safetensors"))
    assert len(found) == 2


def test_steps_of_another_tokenizer_are_refused(train: Callable[..., dict[str, Any]], tmp_path: Path, steps: Path) -> None:
    other = Path(shutil.copy(steps, tmp_path / "other.h5"))
    with h5py.File(other, "r+") as file:
        file.attrs["vocab"] = 7
    with pytest.raises(ConfigError, match="an embedding row for each of the 7 tokens"):
        train("one", settings(), steps=other)
