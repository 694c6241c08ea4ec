"""saedrift: problems → policies → traces → activations → SAEs → drift → report.

One command makes everything: `snakemake --cores 8` (with `--use-conda`, or `--workflow-profile profiles/slurm` on a cluster).
Every phase is also a target: `snakemake --cores 8 activations`.
"""


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/problems.smk"
include: "rules/policies.smk"
include: "rules/traces.smk"
include: "rules/activations.smk"
include: "rules/saes.smk"
include: "rules/drift.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        "results/report/report.html",
