"""The top of the page: what was run in words, and the main numbers."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from workflow.frames import Table
from workflow.report.claims import Claim
from workflow.report.evidence import SHARED, Evidence
from workflow.report.frames import of_text
from workflow.report.markup import Column, missing, number, plain, with_interval


def opening(evidence: Evidence) -> str:
    """One paragraph: model, runs, stages, layers, rows, SAEs, in words with numbers."""
    study = {name: evidence.study.get(name, {}) for name in ("design", "problems", "policies", "saes")}
    given = study["policies"].get("source") == "given"
    made = "stages given from outside" if given else f"PPO, batch {study['policies'].get('batch')}"
    shards, saes = pd.DataFrame(evidence.shards), evidence.saes
    stages = {run: evidence.ordered(run, stages_of(evidence, run)) for run in evidence.runs}
    seeds, layers = _distinct(saes, "seed"), _distinct(shards, "layer")
    rows = sum(int(shard.get("rows", 0)) for shard in evidence.shards)
    sentences = [
        f"Start model: {_sources(evidence) if given else study['policies'].get('model', 'unknown')}; "
        f"{counted(len(evidence.runs), 'RL run')} ({made}).",
        *(f"Run {run}{_reward(evidence, run)}: stages {listed(stages[run])}." for run in evidence.runs),
        f"{plain(evidence.problems.get('problems'))} problems from {study['problems'].get('source', 'an unknown source')}, "
        "split by problem.",
        f"The residual stream behind {counted(len(layers), 'block')} ({listed(layers)}) was "
        f"stored for the text sets {listed(study['design'].get('texts', []))}: "
        f"{plain(rows)} rows of {listed(_distinct(shards, 'd_model'))} numbers in "
        f"{counted(len(shards), 'shard')}.",
        f"{counted(len(saes), 'SAE')} of kind {listed(_distinct(saes, 'kind'))} with "
        f"{listed(plain(width) for width in _distinct(saes, 'd_sae'))} latents{_kept(saes)}, in the chains "
        f"{listed(reversed(_distinct(saes, 'chain')))}, SAE seed{'s' * (len(seeds) > 1)} {listed(seeds)}, trained on the text set "
        f"{study['saes'].get('text')}.",
        *_active(saes),
    ]
    return " ".join(sentences)


def _kept(saes: Table) -> str:
    """k of the kinds that have one."""
    if not (found := _distinct(saes, "k")):
        return ""
    return f", k = {listed(found)}{' where the kind has one' if saes['k'].isna().any() else ''}"


def _active(saes: Table) -> list[str]:
    """Held-out l0 by kind: what k fixes, and what a price of activity left."""
    if "l0" not in saes or saes["l0"].dropna().empty:
        return []
    ends = saes.groupby("kind")["l0"].agg(["min", "max"])
    spans = [f"{kind} {number(low)}{'' if low == high else f' to {number(high)}'}" for kind, low, high in ends.itertuples()]
    return [f"Active latents per held-out row: {listed(spans)}."]


def _distinct(frame: Table, name: str) -> list[Any]:
    """The values of a column that may be missing, rising; whole numbers as such."""
    values = set(frame[name].dropna()) if name in frame else set()
    return sorted(int(value) if isinstance(value, float) else value for value in values)


def stages_of(evidence: Evidence, run: str) -> list[str]:
    """Names of the stages of a run that have a policy, `base` among them."""
    return list(evidence.policies[evidence.policies["run"].isin([run, SHARED])]["stage"])


def listed(values: Iterable[Any]) -> str:
    """a, b and c; past eight of them, the first, the last and how many."""
    texts = [str(value) for value in values]
    if len(texts) > 8:
        return f"{texts[0]}, {texts[1]} … {texts[-1]} ({len(texts)} in all)"
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts) or "none"


def counted(count: int, noun: str) -> str:
    """3 runs, 1 run."""
    return f"{plain(count)} {noun}{'s' * (count != 1)}"


def _reward(evidence: Evidence, run: str) -> str:
    policies = evidence.study.get("policies", {})
    if policies.get("source") == "given":
        return ""
    return f" (reward {((policies.get('runs') or {}).get(run) or {}).get('reward', policies.get('reward'))})"


def _sources(evidence: Evidence) -> str:
    base = evidence.policies[evidence.policies["stage"] == "base"]
    return str(base["source"].iloc[0]) if len(base) and "source" in base else "unknown"


def policies_table(evidence: Evidence, accuracy: Table) -> Table:
    """One row per run and stage: updates, KL, greedy accuracy, difference from base, source."""
    rows = []
    for run in evidence.runs:
        for stage in evidence.ordered(run, stages_of(evidence, run)):
            policy = evidence.policies[(evidence.policies["stage"] == stage) & evidence.policies["run"].isin([run, SHARED])].iloc[0]
            mine = accuracy[(accuracy["run"] == run) & (accuracy["stage"] == stage)] if len(accuracy) else accuracy
            solved = mine.iloc[0].to_dict() if len(mine) else {}
            row = {"run": run, "stage": stage, "update": policy["update"], "source": policy.get("source"), **solved}
            row["kl_shown"] = "unknown" if missing(policy["kl"]) else number(policy["kl"])
            for rule in ("strict", "flexible"):
                row[f"{rule}_shown"] = with_interval(solved, rule, scale=100, unit="%")
                row[f"{rule}_gain_shown"] = with_interval(solved, f"{rule}_gain", sign=True, scale=100)
            rows.append(row)
    return pd.DataFrame(rows)


POLICIES = [
    Column("run", "run"), Column("stage", "stage"), Column("update", "PPO updates", plain),
    Column("kl_shown", "KL to start, nats", str),
    Column("strict_shown", "greedy strict [interval]", str), Column("strict_gain_shown", "from base, points", str),
    Column("flexible_shown", "greedy flexible [interval]", str), Column("flexible_gain_shown", "from base, points", str),
    Column("problems", "problems", plain),
]  # fmt: skip


def last_stage_table(evidence: Evidence, found: list[Claim], quantiles: Table, text: str) -> Table:
    """One row per run, kind, layer and SAE seed at the run's last stage: nmse, shift, adaptation, turning, verdict."""
    decomposition = of_text(evidence.decomposition, text)
    verdicts = {(c.run, c.text, c.kind, c.layer, c.stage): c for c in found}
    rows = []
    for (run, kind, layer, _), mine in decomposition.groupby(["run", "kind", "layer", "seed"], sort=False):
        stage = evidence.ordered(str(run), list(mine["stage"]))[-1]
        row = mine[mine["stage"] == stage].iloc[0].to_dict()
        claim = verdicts.get((run, text, kind, layer, stage))
        row["verdict"] = claim.verdict if claim else number(None)
        for term in ("shift", "null_refit", "adaptation", "delta"):
            row[f"{term}_shown"] = with_interval(row, term, sign=True)
        row |= _ends(evidence, row, stage, text)
        row |= {f"cosine_{chain}": _median(quantiles, row, stage, chain) for chain in ("real", "null")}
        rows.append(row)
    return pd.DataFrame(rows)


def _ends(evidence: Evidence, row: dict[str, Any], stage: str, text: str) -> dict[str, Any]:
    quality = of_text(evidence.quality, text)
    mine = quality[(quality["chain"] == "real") & (quality[["run", "kind", "layer", "seed"]] == pd.Series(
        {name: row[name] for name in ("run", "kind", "layer", "seed")})).all(axis=1)]  # fmt: skip
    columns = [name for name in ("nmse", "l0") if name in mine]
    values = {row["stage"]: row for row in mine[["stage", *columns]].to_dict("records")}
    return {
        f"{name}_{end}": values[at][name] for name in columns for end, at in (("base", "base"), ("last", stage)) if at in values
    }


def _median(quantiles: Table, row: dict[str, Any], stage: str, chain: str) -> float | None:
    same = (quantiles[["run", "kind", "layer", "seed"]] == pd.Series({n: row[n] for n in ("run", "kind", "layer", "seed")})).all(
        axis=1
    )
    mine = quantiles[same & (quantiles["stage"] == stage) & (quantiles["chain"] == chain) & (quantiles["quantile"] == 0.5)]
    return float(mine["decoder_cosine"].iloc[0]) if len(mine) else None


LAST_STAGE = [
    Column("run", "run"), Column("kind", "kind"), Column("layer", "layer", plain), Column("seed", "SAE seed", plain),
    Column("stage", "stage"), Column("verdict", "beyond refit?"),
    Column("nmse_base", "nmse at base", number), Column("nmse_last", "nmse at stage", number),
    Column("l0_base", "l0 at base", number), Column("l0_last", "l0 at stage", number),
    Column("shift_shown", "shift [interval]", str), Column("null_refit_shown", "null refit [interval]", str),
    Column("adaptation_shown", "adaptation [interval]", str), Column("cosine_real", "median decoder cosine, real", number),
    Column("cosine_null", "null", number),
]  # fmt: skip
