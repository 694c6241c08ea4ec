"""The conda environments agree with constraints.txt and hold what their scripts import."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from workflow.environments import ROOTS, environment, normalised, pins
from workflow.fingerprint import PACKAGES, ROOT, closure, imports

RULE = re.compile(r'conda:\s+"\.\./envs/(\w+)\.yaml"(?:(?!\nrule ).)*?script:\s+"\.\./(workflow/\S+\.py)"', re.DOTALL)
"""Environment and script of one rule."""
UNUSED: set[str] = set()
"""Environments that no rule runs in."""
OPTIONAL = {"vllm", "snakemake", "triton"}
"""Imported only where it is installed, or provided by whoever runs the script."""


def listed(name: str) -> dict[str, str]:
    dependencies = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    return dict(line.split("==") for line in pip)


@pytest.mark.parametrize("name", ROOTS)
def test_the_files_are_up_to_date(name: str) -> None:
    assert (ROOT / "envs" / f"{name}.yaml").read_text() == environment(name), "run: python -m workflow.environments"


@pytest.mark.parametrize("name", ROOTS)
def test_every_version_is_that_of_the_constraints(name: str) -> None:
    assert listed(name).items() <= pins().items()


def test_every_environment_is_used_by_the_rules() -> None:
    assert set(ROOTS) - UNUSED == set(scripts())


def test_a_rule_counts_the_environment_that_it_runs_in() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    phases = dict(re.findall(r'^    "(\w+)": "(\w+)",$', rules, re.MULTILINE))
    for name, paths in scripts().items():
        for path in paths:
            asked = f', "{name}"' if phases[path.split("/")[1]] != name else ""
            assert f'code("{path}"{asked})' in rules, f"{path} runs in {name}"


@pytest.mark.parametrize("name", ROOTS)
def test_what_the_scripts_import_is_listed(name: str) -> None:
    distributions = metadata.packages_distributions()
    missing = {}
    for script in scripts().get(name, []):
        for path in closure(ROOT / script):
            for module in third_party(path):
                owners = {normalised(owner) for owner in distributions.get(module, [module])}
                if not owners & set(listed(name)):
                    missing.setdefault(module, path.relative_to(ROOT).as_posix())
    assert missing == {}


def scripts() -> dict[str, list[str]]:
    """Scripts that rules run, by environment."""
    found: dict[str, list[str]] = {}
    for path in (ROOT / "rules").glob("*.smk"):
        for environment_name, script in RULE.findall(path.read_text()):
            found.setdefault(environment_name, []).append(script)
    return found


def third_party(path: Path) -> set[str]:
    """Top-level packages a file imports that are neither Python's nor ours."""
    guarded = {
        node
        for branch in ast.walk(ast.parse(path.read_text()))
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    typed_only = {alias.name.split(".")[0] for node in guarded if isinstance(node, ast.Import) for alias in node.names}
    typed_only |= {(node.module or "").split(".")[0] for node in guarded if isinstance(node, ast.ImportFrom)}
    top = {module.split(".")[0] for module in imports(path)}
    return top - set(sys.stdlib_module_names) - set(PACKAGES) - OPTIONAL - typed_only - {"__future__"}
