"""saedrift: problems → policies → traces → activations → SAEs → drift → report.

One command makes everything: `snakemake --cores 8` (with `--use-conda`, or `--workflow-profile profiles/slurm` on a cluster).
Every phase is also a target: `snakemake --cores 8 activations`.
"""

from pathlib import Path


configfile: f"{workflow.basedir}/config.yaml"


if Path("config.yaml").exists() and not Path("config.yaml").samefile(f"{workflow.basedir}/config.yaml"):

    configfile: "config.yaml"  # of the working directory: a study of its own states what differs


include: "rules/common.smk"
include: "rules/problems.smk"
include: "rules/policies.smk"
include: "rules/policies_trained.smk"
include: "rules/traces.smk"
include: "rules/activations.smk"
include: "rules/saes_inputs.smk"
include: "rules/saes.smk"
include: "rules/drift.smk"
include: "rules/drift_joint.smk"
include: "rules/drift_crosscoder.smk"
include: "rules/drift_agreement.smk"
include: "rules/drift_joint_tables.smk"
include: "rules/interventions.smk"
include: "rules/interventions_tables.smk"
include: "rules/solving.smk"
include: "rules/causal.smk"
include: "rules/ssae_steps.smk"
include: "rules/ssae.smk"
include: "rules/ssae_codes.smk"
include: "rules/ssae_tables.smk"
include: "rules/probes.smk"
include: "rules/probes_asked.smk"
include: "rules/probes_features.smk"
include: "rules/probes_fits.smk"
include: "rules/probes_tables.smk"
include: "rules/voting.smk"
include: "rules/n2g.smk"
include: "rules/n2g_steps.smk"
include: "rules/n2g_tables.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        "results/report/report.html",
