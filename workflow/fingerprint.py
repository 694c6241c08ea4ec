"""A digest of the code that a rule runs: its entry script and every module of this repository that it reaches by import."""

import ast
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("workflow", "sae_core")
BOOKKEEPING = ("workflow/runtime.py", "workflow/progress.py", "workflow/provenance.py")
"""Modules that write logs, progress and provenance and by contract never change a result."""
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
"""Comments of C++; no string of ours holds their marks."""


@functools.cache
def fingerprint(script: str, env: str | None = None) -> str:
    """Digest of a script's import closure inside the repository and of the dependencies of its environment file.

    C++ sources count with the Python modules beside them. Comments, docstrings and layout do not count, nor does the version of the
    interpreter that runs Snakemake.

    Args:
        script: path of the entry script from the root of the repository.
        env: path of its conda environment file from the root, if it has one.
    """
    digest = hashlib.sha256()
    modules = closure(ROOT / script)
    compiled = sorted({source for folder in {path.parent for path in modules} for source in folder.glob("*.cpp")})
    for path in [*modules, *compiled]:
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if name not in BOOKKEEPING:
            form = code_form(text) if path.suffix == ".py" else compiled_form(text)
            digest.update(f"{name}\n{form}\n".encode())
    if env:
        dependencies = yaml.safe_load((ROOT / env).read_text(encoding="utf-8"))["dependencies"]
        digest.update(repr(dependencies).encode())
    return digest.hexdigest()[:16]


def closure(script: Path) -> list[Path]:
    """The script and every file of the repository's packages that it reaches by import, at any depth, sorted."""
    todo, seen = [script], set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += [file for module in imports(path) for file in module_files(module)]
    return sorted(seen)


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file may import, also inside functions; for `from a import b` both a and a.b."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module_files(module: str) -> list[Path]:
    """Files that importing a module of this repository executes: its own and the __init__ of every package above it."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return []
    inits = [ROOT.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    return [path for path in (*inits, ROOT.joinpath(*parts).with_suffix(".py")) if path.is_file()]


def compiled_form(source: str) -> str:
    """C++ without comments and layout."""
    return " ".join(COMMENT.sub(" ", source).split())


def code_form(source: str) -> str:
    """The syntax tree as text of our own making: `ast.dump` differs between Python versions, this does not."""
    return _form(ast.parse(source))


def _form(node: object) -> str:
    match node:
        case ast.AST():
            fields = [(name, getattr(node, name, None)) for name in node._fields if name not in ("kind", "type_comment")]
            fields = [(name, _without_docstring(node, value) if name == "body" else value) for name, value in fields]
            shown = [f"{name}={_form(value)}" for name, value in fields if value not in (None, [])]
            return f"{type(node).__name__}({','.join(shown)})"
        case list():
            return f"[{','.join(map(_form, node))}]"
    return repr(node)


def _without_docstring(node: ast.AST, body: object) -> object:
    """A body without strings that stand alone: docstrings, and the descriptions under fields."""
    if not isinstance(body, list) or not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return body
    return [line for line in body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
