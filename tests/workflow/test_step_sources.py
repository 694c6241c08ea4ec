"""Finding SSAEs and their base models: files, folders, the hub's cache without a network."""

import shutil
from pathlib import Path

import pytest
from hub_caches import COMMIT, put_into_cache

from workflow.config.section import ConfigError
from workflow.step_sources import locate_base, locate_step_sae

OTHER = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub; no network (tests set HF_HUB_OFFLINE)."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def filled(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_a_file_and_the_only_file_of_a_folder_are_found(tmp_path: Path) -> None:
    folder = filled(tmp_path / "one", "released.pt", "README.md")
    wanted = (folder / "released.pt", None)
    assert locate_step_sae(folder / "released.pt") == wanted
    assert locate_step_sae(str(folder)) == wanted


def test_a_folder_with_several_files_needs_a_name(tmp_path: Path) -> None:
    folder = filled(tmp_path / "two", "a.pt", "b.pt")
    with pytest.raises(ConfigError, match=r"two must hold one SSAE, .* its files are: a.pt, b.pt\. Name one"):
        locate_step_sae(folder)
    assert locate_step_sae(folder, file="b.pt").path == folder / "b.pt"
    with pytest.raises(ConfigError, match=r"must hold the SSAE c\.pt; its files are: a\.pt, b\.pt"):
        locate_step_sae(folder, file="c.pt")


def test_a_folder_without_files_and_a_missing_path_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"empty must hold one SSAE, .* none that ends in \.pt"):
        locate_step_sae(filled(tmp_path / "empty"))
    for name in (tmp_path / "nothing", "nothing/released.pt"):
        with pytest.raises(ConfigError, match=r"does not exist\. Correct the path"):
            locate_step_sae(name)


def test_a_hub_id_comes_from_the_cache_at_its_revision(cache: Path) -> None:
    newest, older = (put_into_cache(cache, "lab/saes", {"a.pt": "", "sub/b.pt": ""}, commit) for commit in (COMMIT, OTHER))
    assert locate_step_sae("lab/saes", file="a.pt") == (newest / "a.pt", COMMIT)
    assert locate_step_sae("lab/saes", file="sub/b.pt", revision=OTHER) == (older / "sub/b.pt", OTHER)
    with pytest.raises(ConfigError, match=r"repository lab/saes must hold one SSAE, .* a\.pt, sub/b\.pt"):
        locate_step_sae("lab/saes")


def test_a_hub_id_with_one_file_needs_no_name(cache: Path) -> None:
    folder = put_into_cache(cache, "lab/sae", {"only.pt": "", "README.md": ""})
    assert locate_step_sae("lab/sae") == (folder / "only.pt", COMMIT)


@pytest.mark.parametrize("asked", [{}, {"file": "a.pt"}, {"file": "a.pt", "revision": OTHER}])
def test_what_neither_hub_nor_cache_give_is_told(cache: Path, asked: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"SSAE lab/saes \(revision .*download the file and give its path"):
        locate_step_sae("lab/saes", **asked)


@pytest.mark.parametrize("named", ["./Qwen2.5-0.5B", "/home/someone/models/Qwen2.5-0.5B/", "Qwen/Qwen2.5-0.5B", "qwen2.5-0.5b"])
def test_the_base_model_follows_from_its_folder_elsewhere(cache: Path, tiny_qwen2: Path, named: str) -> None:
    folder = put_into_cache(cache, "Qwen/Qwen2.5-0.5B", {path.name: path for path in tiny_qwen2.iterdir()})
    assert locate_base(named) == folder


def test_a_given_base_model_wins(cache: Path, tiny_qwen2: Path, tiny_llama: Path) -> None:
    assert locate_base("./Qwen2.5-0.5B", base=tiny_llama) == tiny_llama
    assert locate_base(None, base=str(tiny_llama)) == tiny_llama
    assert locate_base(str(tiny_qwen2)) == tiny_qwen2


@pytest.mark.parametrize(("named", "told"), [(None, "says 'nothing'"), ("./my-model", r"says '\./my-model'")])
def test_an_unknown_base_model_is_asked_for(named: str | None, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"{told}, which is neither .* meta-llama/Llama-3\.2-1B\. Give the folder or the hub id"):
        locate_base(named)


def test_a_base_model_without_its_tokenizer_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "bare")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"must hold tokenizer\.json; found .*config\.json"):
        locate_base(None, base=folder)
