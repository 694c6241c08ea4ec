#!/usr/bin/env bash
# The tiny study through profiles/slurm on a one-machine SLURM started for it (real slurmctld, slurmd and munged, no accounting).
#
# usage: run_on_slurm.sh BIN [FOLDER]      BIN: the bin folder of the virtual environment; FOLDER: where to work, default a new one
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd) root=$(cd "$(dirname "$0")/../.." && pwd)
bin=$(cd "$1" && pwd) folder=${2:-$(mktemp -d)}

for program in slurmctld slurmd munged sbatch; do
  command -v $program >/dev/null || {
    echo "make test-slurm needs $program; it is not installed. On Debian: apt-get install --no-install-recommends slurm-wlm munge" >&2
    exit 1
  }
done
[ "$(id -u)" = 0 ] || { echo "make test-slurm must run as root, it starts slurmd; you are $(id -un). Use a container or sudo." >&2; exit 1; }

"$tools/slurm_sandbox.sh" up "$folder/slurm"
trap '"$tools/slurm_sandbox.sh" down "$folder/slurm"' EXIT
export PATH="$bin:$PATH" PYTHONPATH="$root/tests" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
python -c 'import sys; from pathlib import Path; from tiny_study import write_study; write_study(Path(sys.argv[1]) / "study")' "$folder"

run() {
  snakemake --snakefile "$root/Snakefile" --directory "$folder/study" \
    --workflow-profile "$root/profiles/default" --profile "$root/profiles/slurm" "$@"
}
start=$(date +%s)
run 2>&1 | tee "$folder/first.log"
echo "test-slurm: first run $(($(date +%s) - start)) s, $(grep -c 'has been submitted with SLURM jobid' "$folder/first.log") jobs through SLURM"
run 2>&1 | tee "$folder/second.log"
grep -q "Nothing to be done" "$folder/second.log"

# One shard is lost on the cluster: it alone is submitted again.
rm "$folder"/study/results/activations/strict/fixed/ppo_0001/layer_1/heldout/shard_000.json
run activations 2>&1 | tee "$folder/third.log"
[ "$(grep -c 'rule extract_shard:' "$folder/third.log")" = 1 ]
echo "1 passed, 0 failed"
