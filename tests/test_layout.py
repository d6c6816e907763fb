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


def imported_modules(source: str, path: str = "") -> set[str]:
    """The modules of pr1kit that a source names in imports, wherever in it they stand.

    A public name taken from `pr1kit` itself counts as the module that the stub names; so does a whole path in a string,
    as `import_module` takes it. Only where one is put together (`f"pr1kit.rewards.{task}"`) its fixed part counts.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path or source} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules() else PUBLIC.get(whole, node.module))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pr1kit":
            found.add(PUBLIC.get(f"pr1kit.{node.attr}", "pr1kit"))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("pr1kit."):
            found |= {node.value.rstrip(".")} & set(modules())
    return {name for name in found if name.split(".")[0] == "pr1kit"}


def public_names() -> dict[str, str]:
    """`pr1kit.score` → `pr1kit.rewards.score`, for every public name."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    taken = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {f"pr1kit.{alias.name}": f"pr1kit.{node.module}" for node in taken for alias in node.names}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


def arrows() -> set[tuple[str, str]]:
    """(module, module that it imports) within the package."""
    known, found = modules(), set()
    for name, path in known.items():
        for to in imported_modules(path.read_text(encoding="utf-8"), str(path)):
            to = to if to in known or to.rpartition(".")[0] not in known else to.rpartition(".")[0]
            if to != name and (to in known or "." in to):
                found.add((name, to))
    return found


PUBLIC = public_names()


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import pr1kit.training.grpo", "pr1kit.training.grpo"),
        ("from pr1kit.training import grpo", "pr1kit.training.grpo"),
        ("from pr1kit.training.grpo import to_dataset", "pr1kit.training.grpo"),
        ("def f():\n    from pr1kit import train_grpo", "pr1kit.training.grpo"),
        ("import pr1kit\npr1kit.train_grpo()", "pr1kit.training.grpo"),
        ("import_module('pr1kit.training.grpo')", "pr1kit.training.grpo"),
        ("import_module(f'pr1kit.training.{name}')", "pr1kit.training"),
    ],
)
def test_an_import_is_found_however_it_is_written(source, module):
    assert imported_modules(source) == {module} | ({"pr1kit"} if source.startswith("import pr1kit\n") else set())


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
        home = getattr(getattr(pr1kit, name), "__module__", "pr1kit.")  # a constant does not know its own
        assert home.startswith("pr1kit."), name
