"""The nine rooms: imports point downward only, at module level and inside functions alike."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pr1kit

PACKAGE = Path(pr1kit.__file__).parent
FLOORS = (("data",), ("rewards",), ("models", "plots"), ("rollouts",), ("training", "evaluation", "explorer"),
          ("experiments",), ("__main__",))  # fmt: skip
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imported_modules(path: Path) -> set[str]:
    """The modules of pr1kit that a file names in imports, wherever in it they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & set(modules()) or {node.module}
    return {name for name in found if name.split(".")[0] == "pr1kit"}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


def arrows() -> set[tuple[str, str]]:
    """(module, module that it imports) within the package."""
    known = modules()
    return {(name, to) for name, path in known.items() for to in imported_modules(path) if to in known} - {
        (name, name) for name in known
    }


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_module_stands_in_a_room():
    assert {room(name) for name in modules()} - {""} == set(FLOOR)


def test_no_import_points_upward():
    between = {(a, b) for a, b in arrows() if room(a) and room(a) != room(b)}
    upward = sorted(f"{a} → {b}" for a, b in between if not room(b) or FLOOR[room(b)] >= FLOOR[room(a)])
    assert not upward, "imports that do not point downward: " + ", ".join(upward)
    assert len(between) > 50  # the reader of imports finds some at all


def test_no_circle_within_a_room():
    left = {(a, b) for a, b in arrows() if room(a)}
    while left:
        ends = {b for _, b in left} - {a for a, _ in left}
        assert ends, f"circle among {sorted({a for a, _ in left})}"
        left = {(a, b) for a, b in left if b not in ends}


@pytest.mark.parametrize("name", ["data", "rewards", "plots", "explorer"])
def test_rooms_without_torch(name):
    names = [module for module in modules() if room(module) == name]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_stub_names_what_there_is():
    for name in pr1kit.__all__:
        assert getattr(pr1kit, name).__module__.startswith("pr1kit."), name
