"""The entry script, with Snakemake's own containers."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snakemake.iocontainers import InputFiles, Log, OutputFiles, ResourceList, Wildcards

from workflow.fingerprint import ROOT

ONE = ("problems", "quality", "transfer", "decomposition", "claims", "latents", "dictionary", "lineage")
STEPS = {name: f"ssae_{name}" for name in ("histories", "transfer", "decomposition", "latents")}


def named(files: dict[str, str | list[str]]) -> InputFiles:
    """Inputs as a rule has them: single files and lists, also of one or no file."""
    found = InputFiles()
    for name, value in files.items():
        start = len(found)
        found.extend([value] if isinstance(value, str) else value)
        found._set_name(name, start, end=None if isinstance(value, str) else len(found))
    return found


def test_the_entry_reads_what_the_rule_hands_over(made_up: Callable[..., Any], tmp_path: Path) -> None:
    study = made_up()
    study.intervene()
    study.rebuild_steps()
    given = dict(study.inputs)
    made = given.pop("interventions") | {STEPS[name]: files for name, files in given.pop("ssae").items()}
    files = made | {name: value if name in ONE or isinstance(value, list) else [value] for name, value in given.items()}
    names = {"report": "report.html", "figures": "figures", "summary": "summary.json", "provenance": "provenance.json"}
    snakemake = SimpleNamespace(
        rule="make_report", wildcards=Wildcards(), input=named(files), threads=1,
        resources=ResourceList(fromdict={"torch_threads": 1}),
        output=OutputFiles(fromdict={name: str(tmp_path / path) for name, path in names.items()}),
        log=Log(toclone=[str(tmp_path / "report.log")]),
        params=SimpleNamespace(
            cfg={"report": {"title": "A title"}, "study": study.study, "drift": {"replicates": 50, "confidence": 0.9, "seed": 1}},
            code="code",
        ),
    )  # fmt: skip
    runpy.run_path(str(ROOT / "workflow/report/make_report.py"), init_globals={"snakemake": snakemake})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>A title</h1>" in page
    assert 'id="interventions"' in page
    assert 'id="ssae"' in page
    assert all((tmp_path / path).exists() for path in names.values())
    log = (tmp_path / "report.log").read_text(encoding="utf-8")
    for words in ("greedy accuracy: strict ppo_0008: strict", "reward: strict:", "nmse: strict fixed", "drift: strict fixed"):
        assert words in log
