"""Compiles kernels.cpp, once per instruction set: `python -m sae_core.kernels.native.build`.

The results are plain C libraries without Python or torch inside, so they fit every version of both. `setup.py` runs this file by
its path where torch is not installed: it must import nothing but the standard library.
"""

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER / "kernels.cpp"
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fopenmp-simd"),
    # sums may be reordered, which vectorises them; NaN, infinity and subnormal numbers stay what they are
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
LEVELS = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
    "portable": (),
}
"""Instruction sets, the best first, and the flags they are compiled with."""


def levels() -> tuple[str, ...]:
    """Instruction sets that can be compiled for on this kind of machine, the best first."""
    return tuple(LEVELS) if platform.machine().lower() in ("x86_64", "amd64") else ("portable",)


def library_path(level: str, folder: Path = FOLDER) -> Path:
    """Where the library of an instruction set lies."""
    return folder / f"libsae_{level}.so"


def digest() -> str:
    """Of the source, which every library carries: one compiled from another source is never loaded."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, or the first of c++, g++ and clang++.

    Raises:
        ValueError: there is none.
    """
    if given := shlex.split(os.environ.get("CXX", "")):
        return given
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise ValueError(
        "Compiling the native backend needs a C++17 compiler; found none of c++, g++, clang++. Install one or set CXX."
    )


def build(folder: Path = FOLDER) -> list[str]:
    """Compile into a folder; gives the instruction sets that succeeded.

    A compiler may be too old for the newest instructions; the libraries that it can make are made all the same.

    Raises:
        ValueError: there is no compiler, or it compiles not even the portable library.
    """
    command, made = compiler(), []
    for level in levels():
        target = library_path(level, folder)
        partial = target.with_suffix(f".{os.getpid()}.partial")
        arguments = [*command, *FLAGS, *LEVELS[level], f'-DSAE_SOURCE="{digest()}"', str(SOURCE), "-ldl", "-o", str(partial)]
        try:
            subprocess.run(arguments, check=True, capture_output=True, text=True)
            partial.replace(target)
        except (subprocess.CalledProcessError, OSError) as failure:
            partial.unlink(missing_ok=True)
            log.warning("%s was not compiled: %s\n%s", target.name, failure, getattr(failure, "stderr", ""))
        else:
            made.append(level)
    if "portable" not in made:
        raise ValueError(
            f"The native backend needs a compiler that compiles {SOURCE.name}; `{shlex.join(command)}` failed. "
            "Install g++ or clang++ with C++17, or set CXX to one."
        )
    return made


def main() -> int:
    """Compile beside the source, for the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        log.info("built in %s: %s", FOLDER, ", ".join(build()))
    except ValueError as problem:
        log.error("%s", problem)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
