"""One job: its key, its log, its provenance, its errors."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from workflow.config.section import ConfigError
from workflow.progress import Progress
from workflow.runtime import Job, job


class Named(list):
    """Snakemake's named lists, as far as a job reads them."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values.values())
        self._values = values

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def items(self) -> Any:
        return self._values.items()

    def __getattr__(self, name: str) -> Any:
        return self._values[name]


class FakeSnakemake:
    """What Snakemake hands a script, as far as a job reads it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        manifest = folder / "manifest.json"
        manifest.write_text('{"digest": 1}')
        self.rule, self.threads = "train_sae", 1
        self.wildcards = Named(stage="base", layer="3")
        self.input = Named(manifest=str(manifest))
        self.output = Named(provenance=str(folder / "provenance.json"))
        self.params = Named(cfg={"saes": {"k": 4}}, code="abc")
        self.resources = Named(torch_threads=1)
        self.log = [str(folder / "logs" / "job.log")]
        for name, value in changes.items():
            setattr(self, name, value)


@pytest.fixture(autouse=True)
def _restore_logging() -> Any:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def test_the_key_follows_settings_code_wildcards_and_input_content(tmp_path: Path) -> None:
    key = Job(FakeSnakemake(tmp_path)).key
    assert Job(FakeSnakemake(tmp_path)).key == key
    others = [
        FakeSnakemake(tmp_path, params=Named(cfg={"saes": {"k": 5}}, code="abc")),
        FakeSnakemake(tmp_path, params=Named(cfg={"saes": {"k": 4}}, code="abd")),
        FakeSnakemake(tmp_path, wildcards=Named(stage="base", layer="4")),
        FakeSnakemake(tmp_path, rule="other"),
    ]
    changed_input = FakeSnakemake(tmp_path)
    keys = [Job(other).key for other in others]
    (tmp_path / "manifest.json").write_text('{"digest": 2}')
    keys.append(Job(changed_input).key)
    assert len({key, *keys}) == 6


def test_provenance_tells_settings_inputs_machine_and_notes(tmp_path: Path) -> None:
    with job(FakeSnakemake(tmp_path)) as this:
        this.note(dtype="float32", why="no bfloat16 unit")
    told = json.loads((tmp_path / "provenance.json").read_text())
    assert told["settings"] == {"saes": {"k": 4}}
    assert told["notes"] == {"dtype": "float32", "why": "no bfloat16 unit"}
    assert told["machine"]["threads"] == 1
    assert len(next(iter(told["inputs"].values()))) == 64
    assert "done in" in (tmp_path / "logs" / "job.log").read_text()


def test_a_users_mistake_ends_the_job_with_its_message_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), job(FakeSnakemake(tmp_path)):
        raise ConfigError("k must be small; got 9. Lower it.")
    told = (tmp_path / "logs" / "job.log").read_text()
    assert "k must be small; got 9. Lower it." in told
    assert "Traceback" not in told
    assert not (tmp_path / "provenance.json").exists()


def test_any_other_failure_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), job(FakeSnakemake(tmp_path)):
        _ = 1 / 0
    assert "ZeroDivisionError" in (tmp_path / "logs" / "job.log").read_text()


def test_long_work_says_done_total_rate_and_time_left(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 20))
    monkeypatch.setattr("workflow.progress.time.monotonic", lambda: float(next(now)))
    with caplog.at_level(logging.INFO), Progress(10, "reading", "rows", done=2) as progress:
        for _ in range(8):
            progress.advance()
    lines = [record.getMessage() for record in caplog.records]
    assert any("4 of 10 rows" in line and "s left" in line for line in lines)
    assert "10 rows in" in lines[-1]


def test_a_job_with_several_artefacts_leaves_its_provenance_beside_each(tmp_path: Path) -> None:
    beside = [tmp_path / kind / "provenance.json" for kind in ("topk", "relu")]
    with job(FakeSnakemake(tmp_path, output=Named(provenance=[str(path) for path in beside]))) as this:
        this.note(backend="torch")
    told = [json.loads(path.read_text()) for path in beside]
    assert told[0] == told[1]
    assert told[0]["notes"] == {"backend": "torch"}
