"""The threads of the native backend: torch's own where it uses GNU OpenMP, others where not; the results are the same."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_core.kernels.native.backend import NativeBackend
from sae_core.kernels.native.build import library_path
from sae_core.kernels.native.library import SHARES_THREADS, Library, unavailable

if unavailable("portable"):
    pytest.skip(f"no compiled library: {unavailable('portable')}", allow_module_level=True)

ALONE = """
import ctypes, sys
import numpy as np

library, folder = ctypes.CDLL(sys.argv[1]), sys.argv[2]
assert not library.sae_features() & 8, "no OpenMP without torch"
z = np.load(f"{folder}/z.npy")
rows, d_sae = z.shape
bias, latents, values = np.zeros(d_sae, np.float32), np.zeros((rows, 9), np.int64), np.zeros((rows, 9), np.float32)
pointers = [ctypes.c_void_p(part.ctypes.data) for part in (z, bias, latents, values)]
sizes = [ctypes.c_int64(number) for number in (rows, d_sae, 9)]
assert library.sae_topk(*pointers[:2], *sizes, 0, *pointers[2:], ctypes.c_int64(int(sys.argv[3]))) == 0
np.save(f"{folder}/latents.npy", latents)
np.save(f"{folder}/values.npy", values)
"""


@pytest.mark.parametrize("threads", [1, 2, 5, 64])
def test_without_torch_threads_of_its_own_do_the_work(threads: int, tmp_path: Path) -> None:
    z = torch.randn(31, 400, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "z.npy", z.numpy())
    command = [sys.executable, "-c", ALONE, str(library_path("portable")), str(tmp_path), str(threads)]
    subprocess.run(command, check=True, timeout=60)
    backend = NativeBackend("portable", int8=False)
    codes = backend.topk(torch.eye(31), backend.encoder(z.T.contiguous()), torch.zeros(400), 9, False, "fp32")
    assert np.array_equal(np.load(tmp_path / "latents.npy"), codes.latents.view(31, 9).numpy())
    assert np.array_equal(np.load(tmp_path / "values.npy"), codes.values.view(31, 9).numpy())


def test_torchs_threads_do_the_work_where_torch_uses_gnu_openmp() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists() or "libgomp" not in maps.read_text(encoding="utf-8"):
        pytest.skip("torch does not use GNU OpenMP here")
    assert Library("portable").features & SHARES_THREADS
    assert "its own" not in NativeBackend().detail
