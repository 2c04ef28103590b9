"""`rowspan/_native.pyi`, which type checkers read, says of the compiled module what it has."""

from __future__ import annotations

import ast
import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import rowspan
from rowspan.kernels.isa import native_module
from rowspan.quant.scheme import Codes

NATIVE = native_module()
STUB = ast.parse((Path(rowspan.__file__).parent / "_native.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
pytestmark = pytest.mark.skipif(NATIVE is None, reason="no native module here")


def is_enum(stub: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Enum" for base in stub.bases)


def names(stub: ast.ClassDef) -> list[str]:
    return [
        target.id
        for node in stub.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]


def public(what: Any) -> set[str]:
    return {name for name in vars(what) if not name.startswith("_")}


def test_it_has_the_same_names() -> None:
    functions = {node.name for node in STUB.body if isinstance(node, ast.FunctionDef)}
    constants = {
        node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert functions | constants | set(CLASSES) == public(NATIVE)


@pytest.mark.parametrize("name", [name for name, stub in CLASSES.items() if is_enum(stub)])
def test_enums_have_the_same_members(name: str) -> None:
    enum: type[Enum] = getattr(NATIVE, name)
    assert names(CLASSES[name]) == [member.name for member in enum]


@pytest.mark.parametrize("name", [name for name, stub in CLASSES.items() if not is_enum(stub)])
def test_methods_have_the_same_arguments(name: str) -> None:
    methods = [node for node in CLASSES[name].body if isinstance(node, ast.FunctionDef) and node.name != "__init__"]
    attributes = {
        node.target.id
        for node in CLASSES[name].body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    compiled = getattr(NATIVE, name)
    assert {method.name for method in methods} | attributes == public(compiled)
    for method in methods:
        found = re.match(rf"{method.name}\((?:self, )?(.*)\) -> ", getattr(compiled, method.name).__doc__ or "")
        if found is None or "arg" in found[1]:  # an attribute; or nobody passes its arguments by name
            continue
        arguments = [
            argument.arg for argument in (*method.args.args, *method.args.kwonlyargs) if argument.arg != "self"
        ]
        assert re.findall(r"(?:^|, )(\w+): ", found[1]) == arguments, method.name


def test_kinds_of_elements_are_called_the_same() -> None:
    """The planner counts their bytes where there is no native module."""
    assert {member.name for member in NATIVE.Codes} == {kind.name for kind in Codes}
