"""The code fingerprint changes with code and with nothing else."""

from pathlib import Path

import pytest

from workflow import fingerprint as fp


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository: an entry script that reaches b through a, with a bookkeeping module and an env file."""
    files = {
        "workflow/__init__.py": "",
        "workflow/room/__init__.py": "",
        "workflow/room/entry.py": '"""Entry."""\nfrom workflow.room.a import go\nimport workflow.progress\ngo(1)\n',
        "workflow/room/a.py": "def go(x):\n    from sae_core.b import f\n    return f(x)\n",
        "workflow/room/other.py": "VALUE = 1\n",
        "workflow/progress.py": "RATE = 30\n",
        "sae_core/__init__.py": "",
        "sae_core/b.py": '"""Adds."""\n\n\ndef f(x):\n    """One more."""\n    return x + 1  # why\n',
        "sae_core/kernels.cpp": "int f(int x) {  // one more\n  return x + 1;\n}\n",
        "workflow/elsewhere/kernels.cpp": "int g();\n",
        "envs/lm.yaml": "dependencies: [python=3.11, zarr=3.1]\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(fp, "ROOT", tmp_path)
    return tmp_path


def digest(env: str | None = "envs/lm.yaml") -> str:
    fp.fingerprint.cache_clear()
    return fp.fingerprint("workflow/room/entry.py", env)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "sae_core/b.py",
            '"""Other words."""\n\ndef f(x):\n    """Changed."""\n    # another comment\n    return (x +\n            1)\n',
        ),
        ("workflow/room/other.py", "VALUE = 2\n"),
        ("sae_core/kernels.cpp", "/* Adds\n   one. */\nint f(int x) {\n\n return x + 1;\n}\n"),
        ("workflow/elsewhere/kernels.cpp", "int h();\n"),
        ("workflow/progress.py", "RATE = 10\n"),
        ("envs/lm.yaml", "# a comment\ndependencies:\n  - python=3.11\n  - zarr=3.1\n"),
    ],
)
def test_comments_docstrings_layout_and_unreached_modules_do_not_count(house: Path, name: str, text: str) -> None:
    before = digest()
    (house / name).write_text(text)
    assert digest() == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sae_core/b.py", "def f(x):\n    return x + 2\n"),
        ("sae_core/__init__.py", "FLAG = True\n"),
        ("sae_core/kernels.cpp", "int f(int x) { return x + 2; }\n"),
        ("workflow/room/__init__.py", "FLAG = True\n"),
        ("workflow/room/entry.py", "from workflow.room.a import go\ngo(2)\n"),
        ("envs/lm.yaml", "dependencies: [python=3.11, zarr=3.2]\n"),
    ],
)
def test_code_and_dependencies_count(house: Path, name: str, text: str) -> None:
    before = digest()
    (house / name).write_text(text)
    assert digest() != before


def test_touching_files_does_not_count(house: Path) -> None:
    before = digest()
    for path in house.rglob("*.py"):
        path.touch()
    assert digest() == before


def test_relative_imports_are_followed(house: Path) -> None:
    (house / "workflow/room/a.py").write_text("from .other import VALUE\nfrom . import deep\n")
    (house / "workflow/room/deep.py").write_text("X = 1\n")
    before = digest()
    (house / "workflow/room/deep.py").write_text("X = 2\n")
    assert digest() != before


def test_the_syntax_form_is_our_own() -> None:
    """The same text on every Python version: names of nodes and fields that hold something, nothing else."""
    assert fp.code_form("x: int = f(1, *a)") == (
        "Module(body=[AnnAssign(target=Name(id='x',ctx=Store()),annotation=Name(id='int',ctx=Load()),"
        "value=Call(func=Name(id='f',ctx=Load()),args=[Constant(value=1),Starred(value=Name(id='a',ctx=Load()),ctx=Load())]),simple=1)])"
    )


def test_entry_scripts_of_this_repository_reach_their_room_and_no_other() -> None:
    fp.fingerprint.cache_clear()
    rooms = {"problems", "policies", "traces", "activations", "saes", "drift", "report"}
    for room in rooms:
        for entry in (fp.ROOT / "workflow" / room).glob("*.py"):
            reached = {path.relative_to(fp.ROOT).parts[1] for path in fp.closure(entry) if path.parent.parent.name == "workflow"}
            assert reached & rooms <= {room}
