"""What is refused of section `ssae` before any job starts: what the study, the model or the disk does not have."""

import math
from pathlib import Path

from workflow.config.models import ModelShape, model_shape
from workflow.config.section import ConfigError
from workflow.config.ssae import SsaeConfig
from workflow.config.study import Study


def check_ssae(study: Study, base: ModelShape) -> None:
    """Refuse SSAEs that cannot be made; nothing is looked at where none is asked for.

    Args:
        base: shape of the study's own language model.

    Raises:
        ConfigError: an unknown run or stage, a missing file, a text set that no traces have, a target that no code can reach, …
    """
    ssae = study.ssae
    if not ssae.stages:
        return
    _check_stages(study)
    _check_chains(study)
    _check_data(study)
    _check_given(ssae)
    own = base if ssae.base_model is None else model_shape(ssae.base_model, ssae.revision)
    check_size(ssae, own)


def check_size(ssae: SsaeConfig, shape: ModelShape) -> None:
    """Refuse numbers that an SSAE of this language model does not have.

    Raises:
        ConfigError: more blocks than there are, or a target above √L, the L1 norm of a code all of whose L latents are alike.
    """
    if ssae.blocks is not None and ssae.blocks > shape.layers:
        raise ConfigError(
            f"ssae.blocks must be at most the {shape.layers} blocks of the language model; got {ssae.blocks}. "
            "Lower it, or null for all."
        )
    latents = ssae.factor * shape.d_model
    if ssae.target_l1 > math.sqrt(latents):
        raise ConfigError(
            f"ssae.target_l1 must lie within [1, √L] = [1, {math.sqrt(latents):.2f}], codes have L = {latents} latents (factor "
            f"{ssae.factor} × d_model {shape.d_model}) and length 1; got {ssae.target_l1:g}. Lower it or raise ssae.factor."
        )


def _check_stages(study: Study) -> None:
    runs = study.runs if study.ssae.runs is None else study.ssae.runs
    if unknown := [run for run in runs if run not in study.runs]:
        raise ConfigError(
            f"ssae.runs may name only runs of this study: {', '.join(study.runs)}; got {', '.join(unknown)}. "
            "Correct it, or null for all."
        )
    for run in runs:
        known = [stage.name for stage in study.stages(run)]
        if unknown := [stage for stage in study.ssae.stages if stage not in known]:
            raise ConfigError(
                f"ssae.stages may name only stages of the run {run}: {', '.join(known)}; got {', '.join(unknown)}. Correct it."
            )


def _check_chains(study: Study) -> None:
    """Stages behind base go on from the SSAE of base, on steps of their own."""
    if set(study.ssae.stages) == {"base"}:
        return
    if "base" not in study.ssae.stages:
        raise ConfigError(
            f"ssae.stages must hold base, from whose SSAE those of later stages go on; got {study.ssae.stages}. Add base."
        )
    if study.ssae.data.format != "traces" or study.ssae.data.text != "onpolicy":
        raise ConfigError(
            "SSAEs of stages behind base must read what these wrote: ssae.data.format traces and ssae.data.text onpolicy; got "
            f"{study.ssae.data.format} and {study.ssae.data.text} with ssae.stages = {study.ssae.stages}. Set both, or leave base "
            "alone."
        )


def _check_data(study: Study) -> None:
    data = study.ssae.data
    if data.format == "traces":
        if data.text not in study.design.texts:
            raise ConfigError(f"ssae.data.text must be one of design.texts = {study.design.texts}; got {data.text}. Add it there.")
        if study.ssae.source != "given" and data.text != "fixed" and (lost := {"train", "val"} - set(study.traces.splits)):
            raise ConfigError(
                f"ssae.data.text = {data.text} needs traces of the splits train and val; traces.splits lacks "
                f"{', '.join(sorted(lost))}. Add them there, or set ssae.data.text=fixed."
            )
        return
    if data.train is None and study.ssae.source != "given":
        raise ConfigError(
            f"ssae.data.train must name a file for the format {data.format}; it is null. Give one, or set ssae.data.format=traces."
        )
    for key, name in (("train", data.train), ("valid", data.valid)):
        if name is not None and not Path(name).expanduser().is_file():
            raise ConfigError(f"ssae.data.{key} must be an existing file; {name} is none. Put it there, or correct the path.")


def _check_given(ssae: SsaeConfig) -> None:
    if ssae.source == "fresh" or ssae.given.model is None:
        return
    path = Path(ssae.given.model).expanduser()
    local = ssae.given.model.startswith((".", "/", "~")) or path.suffix in (".pt", ".safetensors")
    if (local and not path.exists()) or (ssae.given.file and path.is_dir() and not (path / ssae.given.file).is_file()):
        named = path / ssae.given.file if ssae.given.file and path.is_dir() else path
        raise ConfigError(
            f"ssae.given must name an existing file, a folder that holds ssae.given.file, or a hub id; {named} is not there. "
            "Correct the path, or download it there."
        )
