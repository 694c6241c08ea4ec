"""Codes of all reasoning steps of a file, in one parquet file (workflow/formats/step_codes.py).

python -m workflow.ssae.encode_steps --sae Miaow-Lab/SSAE-Checkpoints --file gsm8k-385k_Qwen2.5-0.5b_spar-10.pt \\
    --data steps.jsonl --format gsm8k_aug --out codes.parquet
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from workflow.config.section import ConfigError
from workflow.config.ssae_data import LENGTHS
from workflow.devices import choose_device
from workflow.formats.step_codes import write_step_codes
from workflow.formats.steps import FILE, StepStore
from workflow.progress import Progress
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.step_encoding import EncodingSettings, encoded_blocks
from workflow.step_loading import LoadedStepSAE, load_step_sae

log = logging.getLogger(__name__)


def encode_file(*, ssae: LoadedStepSAE, source: Path, rules: StepRules, folder: Path, out: Path, settings: EncodingSettings) -> int:
    """Tokenise a source of steps into a folder, encode them and write their codes; the number of steps.

    Raises:
        ConfigError: the source or its tokens do not fit.
    """
    step_cache(source=source, tokenizer=ssae.base, rules=rules, folder=folder)
    told = {"ssae": str(ssae.source.path), "revision": ssae.source.revision or "", "precision": settings.precision}
    with StepStore(folder / FILE) as store, Progress(len(store), "encode", "steps") as progress:
        blocks = encoded_blocks(model=ssae.model, steps=store, settings=settings, progress=progress.advance)
        write_step_codes(out, store, blocks, d_code=ssae.model.d_code, told=told)
        return len(store)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the file is written, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow.ssae.encode_steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sae", required=True, help="a file, a folder or a hub id")
    parser.add_argument("--file", help="which file of the folder or hub repository; the only one if left out")
    parser.add_argument("--revision", help="of the hub id")
    parser.add_argument("--base", help="folder or hub id of the base model, whatever the SSAE's file says")
    parser.add_argument("--data", type=Path, required=True, help="JSON Lines of solutions, or traces.parquet")
    parser.add_argument("--format", choices=list(LENGTHS), required=True, help="of the data, as in ssae.data.format")
    parser.add_argument("--out", type=Path, required=True, help="the parquet file to write")
    parser.add_argument("--steps", type=Path, help="folder that keeps the tokenised steps for another call")
    parser.add_argument("--skip-bad-lines", action="store_true", help="leave out lines that hold no solution")
    parser.add_argument("--double-bos", action="store_true", help="two BOS, as the published SSAEs of Llama read texts")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the language model's products")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="of one forward pass")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    given = parser.parse_args(arguments)
    bad_line = "skip" if given.skip_bad_lines else "error"
    try:
        rules = StepRules(format=given.format, on_bad_line=bad_line, double_bos=given.double_bos)
        ssae = load_step_sae(
            given.sae, file=given.file, revision=given.revision, base=given.base, device=choose_device(given.device),
            double_bos=given.double_bos,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            steps = encode_file(
                ssae=ssae, source=given.data, rules=rules, folder=given.steps or Path(scratch), out=given.out,
                settings=EncodingSettings(given.batch_tokens, given.precision),
            )  # fmt: skip
    except ConfigError as error:
        log.error("%s", error)
        return 1
    log.info("%s: %d steps", given.out, steps)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
