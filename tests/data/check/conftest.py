"""What tests of planted faults share: copies of real sets with what is found in them untouched, and the judgement of one fault."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from nuriwake.data.check import Finding, check_data

Copies = dict[str, tuple[Path, dict[str, Finding]]]


def look(root: Path) -> dict[str, Finding]:
    return {finding.kind: finding for finding in check_data(root, workers=1).findings}


def told(finding: Finding) -> str:
    return " ".join((finding.what, *finding.files))


@pytest.fixture(scope="session")
def untouched(shared, tmp_path_factory) -> Callable[[Mapping[str, Callable[[Path, Path], None]]], Copies]:
    """Name -> how to copy it out of the real data: the copies and what is found in them, which is nothing grave."""

    def copy_all(sets: Mapping[str, Callable[[Path, Path], None]]) -> Copies:
        found: Copies = {}
        for name, copy in sets.items():
            root = tmp_path_factory.mktemp("whole") / name
            root.mkdir()
            copy(shared / "data", root)
            found[name] = root, look(root)
            grave = [kind for kind, finding in found[name][1].items() if finding.severity == "harmful"]
            assert not grave, f"what is found after planting was planted, but {name} has {grave} before"
        return found

    return copy_all


@pytest.fixture
def judge(tmp_path) -> Callable[[Any, Copies], None]:
    """Plants a fault (where, kind, severity, plant) in a copy and looks whether it is found and named."""

    def found_and_named(fault: Any, copies: Copies) -> None:
        source, before = copies[fault.where]
        root = tmp_path / fault.where
        shutil.copytree(source, root)
        named = fault.plant(root)
        found = look(root)
        assert fault.kind in found, {kind: told(finding) for kind, finding in found.items()}
        finding = found[fault.kind]
        assert finding.severity == fault.severity, told(finding)
        assert "|" not in finding.what
        assert all(text in told(finding) for text in named), (named, told(finding))
        if fault.kind in before:  # a part of what the real set truly holds
            assert told(finding) != told(before[fault.kind])

    return found_and_named
