"""One job: its log, threads, key for resuming, and provenance. Every entry script runs inside `job(snakemake)`."""

import contextlib
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, write_json
from workflow.provenance import commit, machine, peak_memory_gib, versions

log = logging.getLogger(__name__)
DIGESTED = (".json", ".parquet", ".csv", ".safetensors", ".jsonl")


class Job:
    """What an entry script knows of its job."""

    def __init__(self, snakemake: Any) -> None:
        self.rule: str = snakemake.rule
        self.wildcards: dict[str, str] = dict(snakemake.wildcards.items())
        self.cfg: dict[str, Any] = snakemake.params.cfg
        self.code: str = snakemake.params.code
        self.inputs: dict[str, str] = {str(path): _input_digest(path) for path in snakemake.input}
        self.threads: int = min(int(snakemake.resources.get("torch_threads", snakemake.threads)), len(os.sched_getaffinity(0)))
        self.notes: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """Digest of settings, code, wildcards and inputs: two jobs may share scratch files only if it is equal."""
        parts = [self.rule, self.wildcards, self.cfg, self.code, self.inputs]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def note(self, **facts: Any) -> None:
        """Add facts to provenance.json: the device, number format or engine that was chosen, or what fell back."""
        self.notes |= facts
        log.info("note: %s", ", ".join(f"{name} = {value}" for name, value in facts.items()))


@contextlib.contextmanager
def job(snakemake: Any) -> Iterator[Job]:
    """Run the body as one job: logging on, threads limited, provenance written at its end, beside each artefact if there are
    several.

    A ConfigError ends the job with its message alone; any other exception with its traceback in the log.
    """
    started = time.time()
    _log_to(Path(snakemake.log[0]) if snakemake.log else None)
    try:
        this = Job(snakemake)
        _limit_threads(this.threads)
        yield this
    except ConfigError as error:
        log.error("%s", error)
        sys.exit(1)
    except BaseException:
        log.exception("rule %s failed", snakemake.rule)
        raise
    if found := snakemake.output.get("provenance"):
        told = _provenance(this, started)
        for path in [found] if isinstance(found, str) else found:
            write_json(path, told)
    log.info("rule %s: done in %.1f s, peak memory %.2f GiB", this.rule, time.time() - started, peak_memory_gib())


def _provenance(this: Job, started: float) -> dict[str, Any]:
    return {
        "rule": this.rule,
        "wildcards": this.wildcards,
        "settings": this.cfg,
        "code": this.code,
        "commit": commit(),
        "inputs": this.inputs,
        "notes": this.notes,
        "versions": versions(),
        "machine": machine(this.threads),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "seconds": round(time.time() - started, 2),
        "peak_memory_gib": peak_memory_gib(),
    }


def _input_digest(path: str) -> str:
    """Content of small inputs; folders are covered by the manifest that stands beside them."""
    return file_digest(path) if Path(path).is_file() and Path(path).suffix in DIGESTED else ""


def _limit_threads(threads: int) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _log_to(path: Path | None) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=handlers, force=True)
    logging.captureWarnings(True)
