"""The design of a study and its cost as a few lines, shown before anything runs."""

from workflow.config.plan import GIB, Plan
from workflow.config.study import Study

SHOWN = 6
"""Values of one factor that are written out."""


def describe(study: Study, plan: Plan) -> str:
    """Factors with their values, and what all combinations come to, done or not."""
    stages = list(dict.fromkeys(stage.name for run in study.runs for stage in study.stages(run)))
    design = study.design
    factors = {
        "runs": study.runs, "stages": stages, "layers": design.layers, "texts": design.texts, "kinds": design.kinds,
        "chains": design.chains, "seeds": design.seeds,
    }  # fmt: skip
    every = " + ".join(f"{phase} {count}" for phase, count in plan.jobs.items() if count)
    totals = {
        "makes": f"{plan.policies} policies ({plan.ppo_updates:,} PPO updates), about {rounded(plan.rows)} rows per layer, "
        f"{plan.saes} SAEs (about {rounded(plan.sae_updates)} updates)",
        "jobs": f"{every} = {sum(plan.jobs.values())}",
        "disk": f"about {plan.bytes_on_disk / GIB:.1f} GiB ({plan.describe_disk()})",
    }
    if plan.answers:
        solving = study.interventions.solving
        totals["solves"] = (
            f"{plan.answers:,} answers of up to {solving.max_new_tokens} tokens, with SAEs in the place of rows and without"
        )
    lines = [f"  {name:<7} {len(values):>3}  {listed(values)}" for name, values in factors.items()]
    return "\n".join(["The study, what is done included:", *lines, *(f"  {name:<7}      {text}" for name, text in totals.items())])


def listed(values: list) -> str:
    """The values, of a long list the first ones and the last."""
    shown = [str(value) for value in values]
    return ", ".join(shown if len(shown) <= SHOWN else [*shown[: SHOWN - 2], "…", shown[-1]])


def rounded(count: int) -> str:
    """A number with two leading digits, as an estimate deserves."""
    return f"{round(count, 2 - len(str(count))):,}"
