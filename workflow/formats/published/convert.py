"""Write an SAE of one project in the format of another. The SAE computes the same afterwards, or nothing is written.

python -m workflow.formats.published.convert layer_19 out/layer_19 --format saelens --pre-bias decoder
python -m workflow.formats.published.convert sae_ppo_step30_layer12.pt out/blocks.12 --format saelens --rows rows.safetensors
python -m workflow.formats.published.convert results/saes/…/layer_12 sae_base_layer12.pt --format ohhmoo

SOURCE: a folder of SAELens (6 or older), a file of OhhMoo or qresearch, or an SAE of results/saes.
DESTINATION: a folder for saelens, a file sae_<stage>_layer<number>.pt for ohhmoo.
docs/formats.md tells what is folded into what, and the traps of each format.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_core.models.sae import SAE
from workflow.config.section import ConfigError
from workflow.formats.published.ohhmoo import write_ohhmoo
from workflow.formats.published.saelens_writing import write_saelens
from workflow.formats.published.sniff import READERS, read_any
from workflow.formats.published.tensors import read_tensors

log = logging.getLogger(__name__)
OWN_FACTS = ("run", "text", "kind", "chain", "seed", "stage", "layer", "digest")
"""Of the manifest of an SAE of saedrift, what goes with it."""
KEPT = (
    "model_name", "model_class_name", "model_from_pretrained_kwargs", "hook_head_index", "hf_hook_name", "context_size",
    "prepend_bos", "exclude_special_tokens", "seqpos_slice", "dataset_path", "neuronpedia_id", "training_architecture",
    "training_architecture_details", "reshape_activations", "signed_topk",
)  # fmt: skip
"""Of the metadata of other files, what goes with an SAE."""
ROWS = "activations"
"""Tensor of a file of rows, as `python -m workflow.activations.export` writes it."""


def rows_in(path: Path) -> Tensor:
    """The matrix of rows in a file of tensors: `activations`, or the only one.

    Raises:
        ConfigError: there is none, or the file is missing or damaged.
    """
    tensors = read_tensors(path).tensors
    found = tensors.get(ROWS, next(iter(tensors.values())) if len(tensors) == 1 else None)
    if found is None or found.ndim != 2 or not len(found):
        raise ConfigError(
            f"Rows must stand in a file of tensors as a matrix `{ROWS}`; {path} has {', '.join(tensors) or 'none'}. "
            "Write it with: python -m workflow.activations.export."
        )
    return found


def convert(
    source: Path, destination: Path, target: str, *, given: dict[str, Any], rows: Path | None = None, approximate: bool = False,
    metadata: dict[str, Any] | None = None, force: bool = False,
) -> None:  # fmt: skip
    """Read an SAE of any known format and write it in another.

    Args:
        target: `saelens` or `ohhmoo`.
        given: fields of `Given` that the source does not say.
        rows: safetensors file with rows, on which conversions are checked that are exact only without negative selected values.
        approximate: write it although they are not exact.
        metadata: more for the file that is written.
        force: replace what is there.

    Raises:
        ConfigError: the source cannot be read or told, the target exists or cannot hold it.
    """
    sae, hook_point, firing_rate, about = _read(source, given)
    common: dict[str, Any] = {"rows": rows_in(rows) if rows else None, "approximate": approximate, "force": force}
    more = about | {name: value for name, value in (metadata or {}).items() if value is not None}
    if target == "ohhmoo":
        write_ohhmoo(destination, sae, config=more, **common)
        return
    if hook_point is None:
        raise ConfigError(
            f"SAELens must be told where rows come from; {source} does not say. "
            "Give the hook point, blocks.12.hook_resid_post for example."
        )
    heads = more.pop("reshape_activations", "none") == "hook_z"
    write_saelens(destination, sae, hook_point, metadata=more, firing_rate=firing_rate, heads=heads, **common)


def _read(source: Path, given: dict[str, Any]) -> tuple[SAE, str | None, Tensor | None, dict[str, Any]]:
    """The SAE, its hook point, firing rates, and where it comes from."""
    if manifest := _own(source):
        from workflow.formats.saes import read_sae

        if told := [name for name, value in given.items() if value]:
            raise ConfigError(f"An SAE of saedrift says everything itself; got {', '.join(told)} for {source}. Leave that out.")
        own = read_sae(manifest)
        about = {name: own.facts[name] for name in OWN_FACTS if name in own.facts}
        more = {"converted_from": {"format": "saedrift", **about}}
        return own.model, own.facts["hook_point"], own.extras.get("firing_rate"), more
    found = read_any(source, **given)
    facts = found.facts
    log.info("%s: %s of %s, %d latents of width %d, stored as %s", source, type(found.model).__name__, facts.format,
             found.model.config.d_sae, found.model.config.d_model, facts.dtype)  # fmt: skip
    for line in facts.assumed:
        log.info("assumed: %s", line)
    about = {name: facts.about[name] for name in KEPT if facts.about.get(name) is not None}
    about["converted_from"] = {"format": facts.format, "file": source.name, "dtype": facts.dtype, "assumed": list(facts.assumed)}
    return found.model, facts.hook_point, found.firing_rate, about


def _own(source: Path) -> Path | None:
    """The manifest of an SAE of saedrift, named by its folder or one of its files; None for other sources."""
    folder = source if source.is_dir() else source.parent
    manifest, weights = folder / "manifest.json", folder / "sae.safetensors"
    return manifest if manifest.is_file() and weights.is_file() and source in (folder, manifest, weights) else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workflow.formats.published.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--format", required=True, choices=("saelens", "ohhmoo"), help="what to write")
    known = parser.add_argument_group("what the source does not say")
    known.add_argument("--from", dest="from_format", choices=tuple(READERS), help="format of the source, where it cannot be told")
    known.add_argument("--k", type=int, help="latents kept per row")
    known.add_argument("--pre-bias", choices=("decoder", "none"), help="whether b_dec is subtracted first (apply_b_dec_to_input)")
    known.add_argument("--norm-scaling-factor", type=float, help="what rows were multiplied with (expected_average_only_in)")
    known.add_argument("--hook-point", help="where rows come from: blocks.12.hook_resid_post, or a module for its output")
    known.add_argument("--encoder", choices=("latent-first", "width-first"), help="how it is stored, where the shape cannot tell")
    known.add_argument("--ignore", action="append", default=[], metavar="TENSOR", help="no part of the SAE; may be repeated")
    known.add_argument("--model-name", help="language model, for the metadata")
    parser.add_argument("--rows", type=Path, help="safetensors file with rows to check that no selected value is negative")
    parser.add_argument("--approximate", action="store_true", help="write it although that was not checked or is not so")
    parser.add_argument("--force", action="store_true", help="replace an SAE that is there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the SAE is written, else 1."""
    options = _parser().parse_args(arguments)
    encoder = options.encoder.replace("-", "_") if options.encoder else None
    given = {"format": options.from_format, "k": options.k, "pre_bias": options.pre_bias, "hook_point": options.hook_point,
             "norm_scaling_factor": options.norm_scaling_factor, "encoder": encoder, "ignore": tuple(options.ignore)}  # fmt: skip
    try:
        convert(
            options.source, options.destination, options.format, given=given, rows=options.rows, approximate=options.approximate,
            metadata={"model_name": options.model_name}, force=options.force,
        )  # fmt: skip
    except ValueError as error:
        log.error("%s", error)
        return 1
    log.info("%s: written for %s", options.destination, options.format)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
