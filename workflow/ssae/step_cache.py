"""Steps of a source tokenised once: `step_cache(source=…, tokenizer=…, rules=…, folder=…)` leaves steps.h5 and its manifest.

A killed call goes on behind the pieces it finished; one with the same source, tokenizer and rules finds its files and makes none.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, remove_scratch, scratch_folder
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.steps import ARTEFACT, FILE, VERSION, StepStore, write_steps
from workflow.language_model import tokenizer_digest
from workflow.progress import Progress
from workflow.ssae.encoding import Encoded, encoded_texts
from workflow.ssae.forms import TRACES, StepRules
from workflow.ssae.solutions import TextSource
from workflow.ssae.step_pieces import counted, finished, keep
from workflow.ssae.trace_source import TraceSource
from workflow.step_tokens import StepTokenizer, step_tokenizer

log = logging.getLogger(__name__)
PIECE_TOKENS = 1 << 22
"""Stored tokens after which a piece is kept: some ten seconds of work, and 16 MiB of memory."""


def step_cache(
    *, source: Path | str, tokenizer: Path | str, rules: StepRules, folder: Path | str, key: str = "",
    policy: Path | str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write `steps.h5` and `manifest.json` into the folder, or find them there; the fields of the manifest.

    Args:
        source: JSON Lines or traces.parquet, as `rules.format` says.
        tokenizer: folder of the base model.
        folder: made if it is missing.
        key: digest of what else pieces of a killed call must share, such as the code.
        policy: of traces, manifest.json of the policy whose tokens they are; None: not looked at.

    Raises:
        ConfigError: the source is missing, holds a bad line or no step; the tokenizer does not fit; see the modules of this room.
    """
    source, folder = Path(source), Path(folder)
    if not source.is_file():
        raise ConfigError(f"ssae.data must name files that exist; there is none at {source}. Correct the path.")
    loaded = step_tokenizer(tokenizer, double_bos=rules.double_bos)
    made_of = {
        "source": file_digest(source), "tokenizer": tokenizer_digest(tokenizer), "rules": rules.meaning(),
        "prefix": list(loaded.prefix), "separator": loaded.separator, "end": loaded.end, "ends": list(loaded.ends),
        "layout": VERSION,
    }  # fmt: skip
    if rules.format == TRACES and policy is not None:
        _check_tokens(read_manifest(policy, "policy")["tokenizer"], made_of["tokenizer"], tokenizer)
    if found := _same(folder, made_of):
        log.info("the steps of %s are in %s already", source, folder)
        return found
    key = hashlib.sha256(json.dumps([made_of, key], sort_keys=True).encode()).hexdigest()[:16]
    scratch = scratch_folder(folder / FILE, key)
    skipped = _tokenise(source, loaded, rules, scratch)
    counts = counted(scratch)
    if not counts["steps"]:
        raise ConfigError(
            f"{source} must hold a step or more; it holds none, {skipped.total()} lines were left out. Correct the file or "
            "ssae.data.format."
        )
    pieces = sorted(scratch.glob("*.npz"))
    write_steps(folder / FILE, pieces, prefix=loaded.prefix, separator=loaded.separator, end=loaded.end, vocab=loaded.vocab)
    facts = {**made_of, **counts, **_measured(folder / FILE), "skipped": dict(skipped), "digest": file_digest(folder / FILE)}
    write_manifest(folder / "manifest.json", ARTEFACT, **facts)
    remove_scratch(scratch)
    log.info("%s: %s", folder / FILE, ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
    return read_manifest(folder / "manifest.json", ARTEFACT)


def _check_tokens(wrote: str, reads: str, tokenizer: Path | str) -> None:
    if wrote != reads:
        raise ConfigError(
            f"Steps of traces are read as the ids that the policy wrote, so the SSAE's base model must have its tokenizer, of the "
            f"digest {wrote[:12]}…; that in {tokenizer} has {reads[:12]}…. Choose an ssae.base_model with the policy's tokenizer."
        )


def _same(folder: Path, made_of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest in the folder if its steps are made of the same."""
    if not (folder / FILE).is_file() or not (folder / "manifest.json").is_file():
        return None
    found = read_manifest(folder / "manifest.json", ARTEFACT)
    same = all(found.get(name) == value for name, value in made_of.items()) and found["digest"] == file_digest(folder / FILE)
    return found if same else None


def _tokenise(source: Path, tokenizer: StepTokenizer, rules: StepRules, scratch: Path) -> Counter[str]:
    """Keep all pieces that the scratch folder lacks; what was left out, by reason."""
    done = finished(scratch)
    after = done[-1]["line"] if done else -1
    reader, lines, encoded = _reader(source, tokenizer, rules, after)
    held: list[Encoded] = []
    tokens, number, line = 0, len(done), max(after, 0)
    with Progress(lines, "tokenise", "lines", done=line) as progress:
        for one in encoded:
            held.append(one)
            tokens += len(one.tokens)
            progress.advance(one.line - line)
            line = one.line
            if tokens >= PIECE_TOKENS:
                keep(held, scratch / f"{number:06d}.npz")
                held, tokens, number = [], 0, number + 1
        if held:
            keep(held, scratch / f"{number:06d}.npz")
    return reader.skipped


def _reader(
    source: Path, tokenizer: StepTokenizer, rules: StepRules, after: int
) -> tuple[TextSource | TraceSource, int, Iterator[Encoded]]:
    """The source, its lines, and its solutions behind line `after`; lines before are read again, so that all faults are counted."""
    if rules.format == TRACES:
        traces = TraceSource(source, tokenizer, rules)
        return traces, pq.read_metadata(source).num_rows, traces.encoded(after)
    texts = TextSource(source, rules)
    with source.open("rb") as lines:
        total = sum(1 for _ in lines)
    return texts, total, encoded_texts((one for one in texts.solutions() if one.line > after), tokenizer, rules)


def _measured(path: Path) -> dict[str, int]:
    with StepStore(path) as store:
        lengths = store.lengths()
        problems = len(np.unique(store.column("solutions/problem")))
    return {"problems": problems, "sequence_tokens": int(lengths.sum()), "longest_sequence": int(lengths.max())}
