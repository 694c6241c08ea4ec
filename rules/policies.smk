"""Phase policies: one language model per run and stage, trained here with PPO or given.

in:  results/problems, a start model or the stages of policies.given
out: results/policies/{run}/{stage}/{model/,manifest.json}; of trained stages also training/ and curve.csv
"""

TRAINED = STUDY.policies.source == "trained"
PPO_SETTINGS = {run: settings.params() for run, settings in STUDY.ppo.items()} if TRAINED else {}


def previous_training(wildcards):
    """The training state that a stage goes on from; none for the first stage behind `base`."""
    if STUDY.stage(wildcards.run, wildcards.stage).hop < 2:
        return {}
    folder = f"results/policies/{wildcards.run}/{STUDY.before(wildcards.run, wildcards.stage)}"
    return {"previous": ancient(f"{folder}/training"), "previous_manifest": f"{folder}/manifest.json"}


def ppo_settings(wildcards):
    """PPO settings of one run and the updates of one stage."""
    stage = STUDY.stage(wildcards.run, wildcards.stage)
    before = STUDY.stages(wildcards.run)[stage.hop - 1]
    return {
        "compute": MACHINE,
        "first_update": before.update + 1,
        "last_update": stage.update,
        "ppo": PPO_SETTINGS[wildcards.run],
        "prompts": STUDY.prompts.params(),
    }


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


if TRAINED:

    rule warm_up:
        input:
            **PROBLEMS,
            start="results/policies/shared/start/manifest.json",
            model=ancient("results/policies/shared/start/model"),
        output:
            model=directory("results/policies/shared/base/model"),
            manifest="results/policies/shared/base/manifest.json",
            curve="results/policies/shared/base/curve.csv",
            provenance="results/policies/shared/base/provenance.json",
        log:
            "results/logs/warm_up.log",
        benchmark:
            "results/benchmarks/warm_up.tsv"
        conda:
            "../envs/lm.yaml"
        threads: THREADS
        resources:
            mem_mb=memory(2000, weights=4),
            runtime=120,
            gpu=GPU,
            torch_threads=STUDY.compute.threads,
        params:
            cfg={
                "compute": MACHINE,
                "lora": {"alpha": STUDY.policies.lora_alpha, "rank": STUDY.policies.lora_rank},
                "prompts": STUDY.prompts.params(),
                "warmup": STUDY.policies.warmup.params(),
            },
            code=code("workflow/policies/warm_up.py"),
        script:
            "../workflow/policies/warm_up.py"

    rule ppo_stage:
        input:
            unpack(previous_training),
            **PROBLEMS,
            base="results/policies/shared/base/manifest.json",
            base_model=ancient("results/policies/shared/base/model"),
        output:
            model=directory("results/policies/{run}/{stage}/model"),
            training=directory("results/policies/{run}/{stage}/training"),
            curve="results/policies/{run}/{stage}/curve.csv",
            manifest="results/policies/{run}/{stage}/manifest.json",
            provenance="results/policies/{run}/{stage}/provenance.json",
        log:
            "results/logs/ppo_stage/{run}/{stage}.log",
        benchmark:
            "results/benchmarks/ppo_stage/{run}/{stage}.tsv"
        wildcard_constraints:
            run=r"(?!shared\b)[A-Za-z]\w*",
        conda:
            "../envs/lm.yaml"
        threads: THREADS
        resources:
            mem_mb=memory(2000, weights=4),
            runtime=1440,
            gpu=GPU,
            torch_threads=STUDY.compute.threads,
        params:
            cfg=ppo_settings,
            code=code("workflow/policies/ppo_stage.py"),
        script:
            "../workflow/policies/ppo_stage.py"

else:

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
