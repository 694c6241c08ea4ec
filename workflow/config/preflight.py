"""What is refused before any job starts: settings that the model, the data or the disk cannot satisfy."""

import shutil
from pathlib import Path

from workflow.config.models import EMBEDDED_PREFIX, ModelShape, model_shape, vocabulary
from workflow.config.plan import GIB, Plan, plan_of
from workflow.config.policies import GivenStage
from workflow.config.probe_study import check_probes
from workflow.config.sae_checks import check_shape
from workflow.config.section import ConfigError
from workflow.config.ssae_checks import check_ssae
from workflow.config.study import Study
from workflow.config.voting_checks import check_voting


def refuse_early(study: Study, results: Path = Path("results")) -> Plan:
    """Check a study against its model, data and disk, and return what it will cost.

    Raises:
        ConfigError: layer beyond the model, k > d_sae, missing model or file, too few problems, another tokenizer, no disk space, …
    """
    shape = base_shape(study)
    _check_layers(study, shape)
    _check_crosscoder(study, shape)
    _check_texts(study)
    _check_patterns(study, shape)
    check_source(study)
    check_ssae(study, shape)
    check_probes(study)
    check_voting(study)
    if study.policies.source == "given":
        _check_stages(study, shape)
    plan = plan_of(study, shape)
    check_disk(plan, results)
    return plan


def base_shape(study: Study) -> ModelShape:
    """Shape of the model behind the stage `base`."""
    if study.policies.source == "trained":
        return model_shape(study.policies.model, study.policies.revision)
    base = study.policies.given[study.runs[0]][0]
    return model_shape(base.model, base.revision)


def _check_layers(study: Study, shape: ModelShape) -> None:
    beyond = [layer for layer in study.design.layers if layer >= shape.layers]
    if beyond:
        raise ConfigError(
            f"design.layers must be below the model's {shape.layers} blocks, counted from 0; got {beyond}. "
            f"The last one is {shape.layers - 1}."
        )
    if unknown := sorted(set(study.saes.by_layer) - {str(layer) for layer in study.design.layers}):
        raise ConfigError(
            f"saes.by_layer may name only layers of design.layers = {study.design.layers}; got {', '.join(unknown)}. "
            "Add the layer or remove the override."
        )
    for kind in study.design.kinds:
        for layer in study.design.layers:
            try:
                check_shape(kind, study.saes.settings(kind, layer, 0), shape.d_model)
            except ValueError as error:
                raise ConfigError(f"{error} (kind {kind}, layer {layer})") from None


def _check_crosscoder(study: Study, shape: ModelShape) -> None:
    settings = study.drift.crosscoder
    if settings.enabled and settings.k > (d_sae := settings.expansion * shape.d_model):
        raise ConfigError(
            f"drift.crosscoder.k must be at most d_sae = {d_sae} (expansion {settings.expansion} × d_model {shape.d_model}); got "
            f"{settings.k}. Lower it or raise drift.crosscoder.expansion."
        )


def _check_texts(study: Study) -> None:
    if study.saes.text not in study.design.texts:
        raise ConfigError(f"saes.text must be one of design.texts = {study.design.texts}; got {study.saes.text}. Add it there.")
    if beyond := sorted(set(study.intervened_texts) - set(study.design.texts)):
        raise ConfigError(
            f"interventions.texts must be among design.texts = {study.design.texts}; got {', '.join(beyond)}. Add them "
            "there, or leave them out here."
        )
    if study.interventions.causal.latents and "null" not in study.design.chains:
        raise ConfigError(
            "interventions.causal.latents needs the chain null in design.chains: latents are chosen and compared against it; got "
            f"design.chains = {study.design.chains}. Add null there, or set interventions.causal.latents=0."
        )
    if "fixed" in study.design.texts and study.problems.solution is None:
        raise ConfigError(
            "The text set fixed must have reference solutions; problems.solution is null. "
            "Give a template, or remove fixed from design.texts and set saes.text to onpolicy."
        )
    sampled = {"test", "val", "train"} - set(study.traces.splits)
    if study.saes.text != "fixed" and sampled:
        raise ConfigError(
            f"SAEs trained on {study.saes.text} need traces of the splits train, val and test; traces.splits lacks "
            f"{', '.join(sorted(sampled))}. Set traces.splits=[train, val, test]."
        )
    if "test" not in study.traces.splits and set(study.design.texts) & {"onpolicy", "replayed"}:
        raise ConfigError(
            f"traces.splits must hold test, on whose problems drift is measured; got {study.traces.splits}. Add test."
        )


def _check_patterns(study: Study, shape: ModelShape) -> None:
    known = sorted({stage.name for run in study.runs for stage in study.stages(run)})
    if unknown := sorted(set(study.n2g.stages or []) - set(known)):
        raise ConfigError(f"n2g.stages must be among the stages {', '.join(known)}; got {', '.join(unknown)}. Correct it.")
    if study.n2g.latents and (without := [run for run in study.runs if not study.n2g_stages(run)]):
        raise ConfigError(
            f"n2g.stages must name a stage of every run; it names none of {', '.join(without)}. Add one, or set n2g.latents=0."
        )
    if isinstance(study.n2g.latents, list):
        every = [study.saes.settings(kind, layer, 0) for kind in study.design.kinds for layer in study.design.layers]
        d_sae = min(settings.expansion for settings in every) * shape.d_model
        if beyond := [latent for latent in study.n2g.latents if latent >= d_sae]:
            raise ConfigError(
                f"n2g.latents must lie between 0 and {d_sae - 1}, the latents of every SAE; got {beyond}. Correct the list."
            )


def check_source(study: Study) -> None:
    """Refuse a problem source that is missing, empty or too small, as far as that shows before it is read.

    Raises:
        ConfigError: see there.
    """
    source, size = study.problems.source, study.problems.size
    if source == "gsm8k" or source.startswith("hub:"):
        return
    if not source.startswith("reasoning_gym:"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"problems.source must be reasoning_gym:<dataset>, gsm8k, hub:<id> or an existing file; {source!r} is none. "
                "Correct it, or put the file there (.jsonl, .json or .parquet)."
            )
        if path.suffix not in (".jsonl", ".json", ".parquet"):
            raise ConfigError(f"A problem file must end in .jsonl, .json or .parquet; got {path.name}. Convert or rename it.")
        found = count_rows(path)
        if found is None:
            return
        if not found:
            raise ConfigError(f"The problem set must not be empty; {source} holds no problems. Fill it or name another file.")
        size = min(size or found, found)
    _check_split_sizes(study, size or 0)


def count_rows(path: Path) -> int | None:
    """Rows of a problem file, without keeping them; None for Parquet where only Snakemake is installed, the job will count."""
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            return None
        return parquet.read_metadata(path).num_rows
    if path.suffix == ".json":
        import json

        return len(json.loads(path.read_text(encoding="utf-8")))
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _check_split_sizes(study: Study, size: int) -> None:
    weights = study.problems.splits
    for name, weight in weights.items():
        if weight and (count := int(size * weight / sum(weights.values()))) < 2:
            raise ConfigError(
                f"Every split must get at least 2 problems; {name} gets {count} of {size}. "
                f"Raise problems.size, give more data, or set problems.splits.{name}=0 where it is not needed."
            )
    hops = 1 + max(stage.hop for run in study.runs for stage in study.stages(run)) if study.saes.hop_rows == "fresh" else 1
    train = int(size * weights["train"] / sum(weights.values()))
    if train <= (hops - 1) * study.activations.prompts_per_hop:
        raise ConfigError(
            f"The split train must reach into {hops} blocks of activations.prompts_per_hop = "
            f"{study.activations.prompts_per_hop} problems, one per stage; it gets {train} of {size}. "
            "Give more problems, lower activations.prompts_per_hop, or set saes.hop_rows=same."
        )


def _check_stages(study: Study, base: ModelShape) -> None:
    first = study.policies.given[study.runs[0]][0]
    tokens = vocabulary(first.model, first.revision)
    for run in study.runs:
        for entry in study.policies.given[run][1:]:
            _check_stage(run, entry, base, tokens)


def _check_stage(run: str, entry: GivenStage, base: ModelShape, tokens: dict[str, int]) -> None:
    shape = model_shape(entry.model, entry.revision)
    if (shape.layers, shape.d_model) != (base.layers, base.d_model):
        raise ConfigError(
            f"All stages must have the shape of their base ({base.layers} blocks, d_model {base.d_model}); {run}/{entry.stage} has "
            f"{shape.layers} blocks, d_model {shape.d_model}. Give stages of one model."
        )
    if entry.model.startswith(EMBEDDED_PREFIX) or not tokens:
        return
    own = vocabulary(entry.model, entry.revision)
    if own != tokens:
        differing = next(token for token in (*tokens, *own) if tokens.get(token) != own.get(token))
        raise ConfigError(
            f"A policy's tokenizer must be its base's; that of {run}/{entry.stage} ({entry.model}) differs, first at the token "
            f"{differing!r}: id {own.get(differing)} against {tokens.get(differing)}. Give stages of one model and tokenizer."
        )


def check_disk(plan: Plan, results: Path) -> None:
    """Refuse a study whose files would not fit.

    Raises:
        ConfigError: the estimate exceeds the free space.
    """
    place = results if results.exists() else Path()
    needed, free = plan.bytes_on_disk, shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"The study must fit on the disk; it needs about {needed / GIB:.1f} GiB ({plan.describe_disk()}) and {place.resolve()} "
            f"has {free / GIB:.1f} GiB free. Free some space, or lower activations.prompts_per_hop, layers, stages or seeds."
        )
