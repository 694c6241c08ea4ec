"""Phase policies: one language model per run and stage, trained here with PPO or given.

in:  results/problems, a start model or the stages of policies.given
out: results/policies/{run}/{stage}/{model/,manifest.json}; of trained stages also training/ and curve.csv
"""

TRAINED = STUDY.policies.source == "trained"


def given_entry(wildcards):
    """The entry of policies.given behind a run and stage."""
    run = STUDY.runs[0] if wildcards.run == SHARED else wildcards.run
    return next(entry for entry in STUDY.policies.given[run] if entry.stage == wildcards.stage)


def given_settings(wildcards):
    """What policies.given says of one stage."""
    return {"given": given_entry(wildcards).params()}


def given_base(wildcards):
    """The base policy, with whose tokenizer every later stage must agree, and the files of a local directory."""
    base = {} if wildcards.stage == "base" else {"base": "results/policies/shared/base/manifest.json"}
    entry = given_entry(wildcards)
    return base | {"files": local_weights(entry.model, entry.adapter)}


rule start_model:
    input:
        local_weights(STUDY.policies.model, None) if TRAINED else [],
    output:
        model=directory("results/policies/shared/start/model"),
        manifest="results/policies/shared/start/manifest.json",
        provenance="results/policies/shared/start/provenance.json",
    log:
        "results/logs/start_model.log",
    benchmark:
        "results/benchmarks/start_model.tsv"
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500, weights=3),
        runtime=120,
        torch_threads=1,
    params:
        cfg={"policies": {"model": STUDY.policies.model, "revision": STUDY.policies.revision}},
        code=code("workflow/policies/start_model.py"),
    script:
        "../workflow/policies/start_model.py"


if not TRAINED:

    rule given_stage:
        input:
            unpack(given_base),
        output:
            model=directory("results/policies/{run}/{stage}/model"),
            manifest="results/policies/{run}/{stage}/manifest.json",
            provenance="results/policies/{run}/{stage}/provenance.json",
        log:
            "results/logs/given_stage/{run}/{stage}.log",
        benchmark:
            "results/benchmarks/given_stage/{run}/{stage}.tsv"
        conda:
            "../envs/lm.yaml"
        threads: ONE_THREAD
        resources:
            mem_mb=memory(1500, weights=3),
            runtime=240,
            torch_threads=1,
        params:
            cfg=given_settings,
            code=code("workflow/policies/given_stage.py"),
        script:
            "../workflow/policies/given_stage.py"


rule policies:
    input:
        [policy_files(run, stage)["policy"] for run, stage in every_policy()],
