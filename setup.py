"""Compiles the native backend of sae_core while the package is built; everything else stands in pyproject.toml.

Without a compiler the package installs all the same, says so, and the backend reports at run time that it is absent and why.
"""

import importlib.util
import logging
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PACKAGE = Path("sae_core", "kernels", "native")


class BuildWithLibraries(build_py):
    """Puts the libraries beside the Python files: into the source tree where the installation is editable."""

    def run(self) -> None:
        super().run()
        folder = Path(__file__).parent if self.editable_mode else Path(self.build_lib)
        try:
            made = native_build().build((folder / PACKAGE).resolve())
        except ValueError as problem:
            self.warn(f"the package is installed without its native backend. {problem}")
        else:
            self.announce(f"native backend compiled for {', '.join(made)}", logging.INFO)


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and every version of Python 3, where libraries were compiled."""

    def get_tag(self) -> tuple[str, str, str]:
        compiled = any((Path(str(self.bdist_dir)) / PACKAGE).glob("*.so"))
        self.root_is_pure = not compiled
        platform = super().get_tag()[2]
        return "py3", "none", platform


def native_build() -> ModuleType:
    """The module that compiles, loaded by its path: importing its package would import torch."""
    spec = importlib.util.spec_from_file_location("native_build", Path(__file__).parent / PACKAGE / "build.py")
    assert spec is not None, "a file beside this one"
    assert spec.loader is not None, "a file beside this one"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup(cmdclass={"build_py": BuildWithLibraries, "bdist_wheel": PlatformWheel})
