"""Device and number format of a job, chosen openly: what was chosen goes into its provenance."""

from pathlib import Path

import torch

from workflow.config.section import ConfigError

BF16_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Instruction sets with which a CPU multiplies bfloat16; without one it is slower than float32."""


def choose_device(setting: str) -> torch.device:
    """The device for a setting of `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: `cuda` is asked for and no GPU is usable.
    """
    found = torch.cuda.is_available()
    if setting == "cuda" and not found:
        raise ConfigError(
            "compute.device: cuda needs a GPU that this PyTorch can use; found none. Set compute.device to auto or cpu, "
            "or install a PyTorch built for your CUDA driver."
        )
    return torch.device("cuda" if found and setting != "cpu" else "cpu")


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """The number format for a setting of `auto`, `float32` or `bfloat16`: `auto` is bfloat16 where the hardware multiplies it."""
    if setting != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[setting]
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_has_bf16()
    return torch.bfloat16 if has_bf16 else torch.float32


def _cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    if not cpuinfo.is_file():
        return False
    flags = next((line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), [])
    return not BF16_CPU_FLAGS.isdisjoint(flags)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` or `bfloat16`, as manifests and settings spell it."""
    return str(dtype).removeprefix("torch.")
