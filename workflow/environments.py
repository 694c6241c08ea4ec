"""The conda environments of the rules, written from constraints.txt: `python -m workflow.environments` rewrites envs/*.yaml.

Every file is complete on its own: it names Python, pip, and each package that the environment's scripts need, directly or
through others, at the version that constraints.txt pins.
"""

import logging
import re
import sys
from importlib import metadata

from packaging.requirements import Requirement

from workflow.fingerprint import ROOT
from workflow.formats.files import write_text

PYTHON = "python>=3.11,<3.14"
HALL = ("pydantic", "pyyaml", "tqdm", "packaging", "numpy", "pandas", "pyarrow")
ROOTS = {
    "lm": (*HALL, "torch", "transformers", "peft", "accelerate", "gguf", "safetensors", "huggingface_hub", "httpx2",
           "reasoning_gym", "zarr", "ml_dtypes", "h5py", "scipy", "jaxtyping"),
    "numerics": (*HALL, "torch", "safetensors", "zarr", "ml_dtypes", "scipy", "jaxtyping"),
    "probes": (*HALL, "torch", "safetensors", "scikit-learn", "scipy", "h5py", "jaxtyping"),
    "report": (*HALL, "matplotlib"),
}  # fmt: skip
"""What the scripts of each environment import, and what those need beside their declared dependencies."""


def pins() -> dict[str, str]:
    """Version of every package in constraints.txt, by normalised name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normalised(name): version for name, version in pairs}


def normalised(name: str) -> str:
    """A package name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(roots: tuple[str, ...]) -> list[str]:
    """The packages and everything they need on this machine, from the installed metadata, sorted."""
    todo, seen = [normalised(root) for root in roots], set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            requirements = map(Requirement, metadata.requires(name) or [])
            todo += [normalised(r.name) for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return sorted(seen)


def environment(name: str) -> str:
    """Text of one environment file."""
    versions = pins()
    packages = [package for package in closure(ROOTS[name]) if package in versions]
    lines = [f"      - {package}=={versions[package]}" for package in packages]
    head = "# Written by `python -m workflow.environments` from constraints.txt.\nchannels:\n  - conda-forge\ndependencies:\n"
    return f'{head}  - "{PYTHON}"\n  - pip\n  - pip:\n' + "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite all environment files."""
    for name in ROOTS:
        path = ROOT / "envs" / f"{name}.yaml"
        write_text(path, environment(name))
        logging.getLogger(__name__).info("wrote %s", path.relative_to(ROOT))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    main()
