"""Compile what the triton backend would launch for real SAEs, for compute capability 9.0 and without a GPU; print JSON."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import sae_core.kernels.triton as package
from sae_core.kernels.codes import Codes
from sae_core.kernels.gradient import AdamStep, ExtraRows, RowGradient
from sae_core.kernels.triton.backend import TritonBackend

META = torch.device("meta")
SHAPES = [(512, 896, 7168, 64), (512, 896, 7168, 256), (8192, 2048, 65536, 64)]
"""batch, d_model, d_sae, k."""


class Hopper(DriverBase):
    """Stands for a GPU that nothing is launched on."""

    def __init__(self) -> None:
        pass

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return META

    def get_benchmarker(self) -> Any:
        raise NotImplementedError

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, and bytes of stack and local memory, of each thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name.lower(): int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}


def update(backend: TritonBackend, shape: tuple[int, int, int, int], on_device: bool) -> None:
    """All operations of an update on tensors without content."""
    batch, d_model, d_sae, k = shape

    def numbers(*size: int) -> Tensor:
        return torch.empty(*size, device=META)

    def integers(*size: int) -> Tensor:
        return torch.empty(*size, dtype=torch.int64, device=META)

    def number(value: float) -> Any:
        return torch.tensor(value, device=META) if on_device else value

    encoder, decoder = (backend.matrix(numbers(d_sae, d_model), selects) for selects in (True, False))
    for precision in ("fp32", "bf16"):
        backend.topk(numbers(batch, d_model), encoder, numbers(d_sae), k, on_device, precision)
    codes = Codes(integers(batch + 1), integers(batch * k), numbers(batch * k))
    entries = backend.transpose(codes, d_sae)
    backend.reconstruct(codes, entries, decoder.weights, numbers(d_model), numbers(batch, d_model))
    extra = ExtraRows(integers(7), numbers(7, d_model)) if on_device else None
    gradient = backend.prepared(RowGradient(entries, codes.values, numbers(batch, d_model), extra))
    backend.squared_norm(gradient, torch.empty((), dtype=torch.bool, device=META) if on_device else None)
    step = AdamStep(number(1e-3), number(3), number(0.5))
    backend.adam_(encoder, gradient, step)
    backend.adam_(decoder, gradient, step._replace(unit_rows=True, project=True))


def main() -> None:
    driver.set_active(Hopper())
    compiled: dict[str, dict[str, Any]] = {}
    launch = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        assert kernel is not None
        if kernel.hash not in compiled:
            cubin = kernel.asm["cubin"]
            warps = kernel.metadata.num_warps
            compiled[kernel.hash] = {"name": self.fn.__name__, "bytes": len(cubin), "warps": warps, **resources(cubin)}

    JITFunction.run = compile_only
    backend = object.__new__(TritonBackend)
    for number, shape in enumerate(SHAPES):
        update(backend, shape, on_device=bool(number % 2))
    modules = [importlib.import_module(f"{package.__name__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)]
    defined = {name for module in modules for name, value in vars(module).items() if isinstance(value, JITFunction)}
    json.dump({"kernels": list(compiled.values()), "defined": sorted(name for name in defined if "_kernel" in name)}, sys.stdout)


if __name__ == "__main__":
    main()
