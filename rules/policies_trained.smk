"""Phase policies, where they are trained here: warm-up to `base`, then PPO stage by stage.

in:  results/problems, the start model
out: results/policies/{run}/{stage}/{model/,training/,curve.csv,manifest.json}
"""

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
