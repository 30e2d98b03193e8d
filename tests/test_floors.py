"""The floors of the house: a room imports only from lower floors, and siblings never see each other."""

import ast
from pathlib import Path

import pytest

import nuriwake

SOURCE = Path(nuriwake.__file__).parent
FLOORS = {
    "core": 0,
    "data": 1, "transforms": 1, "metrics": 1, "models": 1, "viz": 1,
    "losses": 2, "inference": 2,
    "tasks": 3,
    "weights": 4,
    "engine": 5, "export": 5, "serve": 5, "studio": 5,
    "recipes": 6,
    "api": 7, "__init__": 8, "cli": 8, "__main__": 9,
}  # fmt: skip
ONLY = {  # rooms that see less than all lower floors
    "data": {"core"}, "transforms": {"core"}, "metrics": {"core"}, "models": {"core"}, "viz": {"core"},
    "losses": {"core", "models"},
    "inference": {"core", "models"},
    "tasks": {"core", "metrics", "losses", "models", "inference"},
}  # fmt: skip


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            modules = [node.module] if node.module != "nuriwake" else [f"nuriwake.{name.name}" for name in node.names]
            names.update(module for module in modules if module)
        elif isinstance(node, ast.Import):
            names.update(name.name for name in node.names)
    found = {name.split(".")[1] for name in names if name.startswith("nuriwake.")}
    return {name if name in FLOORS else "__init__" for name in found}  # `from nuriwake import __version__`


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path):
    here = room(path)
    for there in imported_rooms(path) - {here}:
        assert FLOORS[there] < FLOORS[here], f"{here} (floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]})"
        assert there in ONLY.get(here, FLOORS), f"{here} may not import {there}"


def test_core_imports_no_torch():
    for path in (SOURCE / "core").glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        assert not {"torch", "torchvision"} & {name.partition(".")[0] for name in names}, path
