"""A published step-level SAE, taken into a study as it is: the same files as of one that was trained here."""

from pathlib import Path

from workflow.config.ssae_training import SsaeLegacy
from workflow.formats.files import file_digest, publish, scratch_folder, write_text
from workflow.formats.published.step_saes import read_published
from workflow.formats.step_saes import BASE, FILE, write_step_manifest, write_step_tensors
from workflow.ssae.records import history_csv
from workflow.step_saes import filled_step_sae, save_base
from workflow.step_tokens import check_rows, step_tokenizer


def adopt_step_sae(*, given: Path, base: Path, folder: Path, legacy: SsaeLegacy) -> None:
    """Write the files of a given SSAE, without its hints encoder.

    Args:
        given: file in the released layout.
        base: folder of its base model.
        folder: where they are put.

    Raises:
        ConfigError: the file is no SSAE, or the base model is not the one that it was trained around.
    """
    published, digest = read_published(given), file_digest(given)
    tokenizer = step_tokenizer(base, double_bos=legacy.double_bos)
    check_rows(tokenizer, published.sizes.vocab, f"in {given}", exactly=True)
    model = filled_step_sae(published, base)
    scratch = scratch_folder(folder, digest[:16])
    write_step_tensors(scratch / FILE, model.state_dict())
    save_base(model, tokenizer, scratch / BASE)
    write_text(scratch / "history.csv", history_csv([]))
    sizes = {"d_model": model.d_model, "factor": model.factor, "d_code": model.d_code, "vocab": published.sizes.vocab}
    unknown = dict.fromkeys(
        (
            "phase",
            "seed",
            "steps",
            "train_steps",
            "held_out_steps",
            "updates",
            "kept_update",
            "target_l1",
            "nll",
            "l1",
            "l0",
            "active_share",
        )
    )
    on = sorted(name for name, is_on in legacy if is_on)
    write_step_manifest(scratch, **sizes, **unknown, blocks=published.sizes.blocks, parent=digest, legacy=on)
    publish(scratch, folder)
