#!/usr/bin/env bash
# The tiny study with --use-conda from an interpreter that holds Snakemake and nothing else.
#
# conda itself is stood in for: conda_shim.py answers Snakemake's calls (solving and linking by py-rattler are real) and
# build_channel.py makes a local channel of the running CPython and pip. The packages come from the package index, through the
# `pip:` part of envs/*.yaml. It proves that the environments are complete; not that a remote channel works.
#
# usage: run_with_conda.sh BIN [FOLDER]      BIN: the bin folder of the virtual environment; FOLDER: where to work, default a new one
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd) root=$(cd "$(dirname "$0")/../.." && pwd)
bin=$(cd "$1" && pwd) folder=${2:-$(mktemp -d)}

command -v patchelf >/dev/null || { echo "make test-conda needs patchelf; it is not installed. On Debian: apt-get install patchelf" >&2; exit 1; }

echo "test-conda: the stand-in for conda and its channel"
"$bin/python" -m venv "$folder/rattler"
"$folder/rattler/bin/python" -m pip install --quiet --disable-pip-version-check py-rattler pyyaml packaging
mkdir -p "$folder/conda/bin"
{ echo "#!$folder/rattler/bin/python"; tail -n +2 "$tools/conda_shim.py"; } > "$folder/conda/bin/conda"
chmod +x "$folder/conda/bin/conda"
echo 'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"' > "$folder/conda/bin/activate"
"$folder/rattler/bin/python" "$tools/build_channel.py" "$folder/channel/conda-forge" pip
"$folder/rattler/bin/python" -c "import asyncio, rattler.index as i; asyncio.run(i.index_fs('$folder/channel/conda-forge'))"

echo "test-conda: an interpreter with Snakemake and nothing else"
"$bin/python" -m venv "$folder/bare"
"$folder/bare/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" snakemake

export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 CONDA_CHANNEL_ALIAS="file://$folder/channel/"
PYTHONPATH="$root/tests" "$bin/python" -c \
  'import sys; from pathlib import Path; from tiny_study import write_study; write_study(Path(sys.argv[1]) / "study")' "$folder"
export PATH="$folder/conda/bin:$folder/bare/bin:$PATH"
run() { snakemake --snakefile "$root/Snakefile" --directory "$folder/study" --cores "$(nproc)" "$@"; }
start=$(date +%s)
run --use-conda --conda-create-envs-only
echo "test-conda: environments made in $(($(date +%s) - start)) s"
run --use-conda
run --use-conda 2>&1 | tee "$folder/second.log"
grep -q "Nothing to be done" "$folder/second.log"
run 2>&1 | tee "$folder/third.log"      # switching conda off re-runs nothing
grep -q "Nothing to be done" "$folder/third.log"
echo "1 passed, 0 failed"
