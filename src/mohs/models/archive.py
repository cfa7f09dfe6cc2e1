"""What a file of torch may hold before it is opened: loading one can run code, and not only by pickles.

A .pt2 is a zip of JSON, raw tensors and pickles. torch reads the pickled tensors and sample inputs with weights-only
loading when that is forced, but it also unpickles opaque constants whatever is forced, loads the shared libraries of
AOTInductor, evaluates the symbolic sizes (`sympify`) and the guards as Python, calls any attribute of `torch` that a
node names, imports modules that tree specifications name, and writes names into generated code. So an archive passes
only if everything in it is of a kind known to be inert. The records are listed and read by torch's own reader, so that
a zip which two readers see differently deceives neither.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mohs.errors import ModelError

_TRUST = "say --trust-pickle (trust_pickle=True) only if you trust whoever made the file"
_RECORDS = re.compile(
    r"models/model\.json|data/(weights|constants)/(weight_\d+|tensor_\d+|model_(weights|constants)_config\.json)"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|version|\.data/\w+|extra/.*"
)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision)\.[a-z_]\w*\.\w+"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.sym_\w+|math\.[a-z]\w*"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
_FILES = re.compile(r"\b(from_file|save)\b")  # the operators of torch that reach the disk
_WORD = re.compile(r"[\w.:+/-]*")
_NAME = re.compile(r"[^\W\d]\w*|")
_SYMPY = re.compile(
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Abs|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Equality|Unequality|Mod|Where"
    "|(Strict)?(Less|Greater)Than|PythonMod|ModularIndexing|(Clean|Floor|Ceil)Div|(Int|Float)TrueDiv|LShift|RShift"
    "|PowByNatural|FloatPow|(Ceil|Floor|Trunc|Round)ToInt|TruncToFloat|ToFloat|RoundDecimal|Identity"
)
_TREES = ("builtins.tuple", "builtins.list", "builtins.dict", None)
_ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.operator, ast.unaryop)
_SYNTAX = (*_ARITHMETIC, ast.cmpop, ast.boolop, ast.Name, ast.keyword, ast.Load)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with `constants.pkl` and code. False for pickles."""
    records = _records(path)
    return "constants.pkl" in records and any(name.startswith("code/") for name in records)


def check_torchscript(path: Path) -> None:
    """Raise ModelError where the code of a TorchScript archive names operators that read or write files."""
    reader = torch._C.PyTorchFileReader(str(path))
    for name in _records(path):
        if name.startswith("code/") and name.endswith(".py"):
            found = _FILES.search(reader.get_record(name).decode())
            if found:
                raise ModelError(f"{path} calls {found[1]}, which reaches the disk; {_TRUST}")


def check_exported(path: Path) -> None:
    """Raise ModelError where a .pt2 holds anything that could run when it is loaded or called, sample inputs and
    pickled tensors apart, which weights-only loading restricts."""
    records = _records(path)
    if "models/model.json" not in records:
        raise ModelError(f"{path} is not an archive of torch.export.save: it has no models/model.json")
    reader = torch._C.PyTorchFileReader(str(path))
    for name in records:
        if not _RECORDS.fullmatch(name):
            raise ModelError(f"{path} carries {name!r}, which is code or a pickle; {_TRUST}")
        if name.endswith("_config.json"):
            for payload in json.loads(reader.get_record(name))["config"].values():
                if not re.fullmatch(r"weight_\d+|tensor_\d+", payload["path_name"]):
                    raise ModelError(f"{path} carries the pickled object {payload['path_name']!r}; {_TRUST}")
    for what, text in _suspicious(json.loads(reader.get_record("models/model.json"))):
        raise ModelError(f"{path} has the {what} {text[:80]!r}, which would run as code; {_TRUST}")


def _records(path: Path) -> list[str]:
    try:
        reader: Any = torch._C.PyTorchFileReader(str(path))
        return list(reader.get_all_records())
    except RuntimeError:
        return []


def _suspicious(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of the program that is not of the kind that its key promises."""
    if isinstance(node, dict):
        for name, value in node.items():
            if not _WORD.fullmatch(name):
                yield "key", name
            if name != "metadata":  # stack traces and the like, which are only ever shown
                yield from _suspicious(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _suspicious(value, key)
    elif isinstance(node, str) and not _KINDS.get(key, _word)(node):
        yield key, node


def _word(text: str) -> bool:
    return bool(_WORD.fullmatch(text))


def _name(text: str) -> bool:
    return bool(_NAME.fullmatch(text))


def _operator(text: str) -> bool:
    return bool(_OPERATOR.fullmatch(text)) and "__" not in text and not _FILES.search(text)


def _size(text: str) -> bool:
    """Arithmetic of numbers, plain names and the functions of sympy that sizes are written with."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    return all(map(_inert, ast.walk(tree)))


def _inert(part: ast.AST) -> bool:
    match part:
        case ast.Constant(value=int() | float() | str() as value):
            return bool(_WORD.fullmatch(str(value)))
        case ast.Call(func=ast.Name(id=function)):
            return bool(_SYMPY.fullmatch(function))
    return isinstance(part, _SYNTAX)


def _tree(text: str) -> bool:
    """A specification of tuples, lists and dicts, which imports nothing."""

    def plain(spec: dict[str, object]) -> bool:
        children = spec["children_spec"]
        inert = "__" not in str(spec["context"])
        return spec["type"] in _TREES and inert and isinstance(children, list) and all(map(plain, children))

    try:
        return plain(json.loads(text)[1])
    except (ValueError, LookupError, TypeError):
        return False


_KINDS: dict[str, Callable[[str], bool]] = {
    "target": _operator,
    "as_operator": _operator,
    "expr_str": _size,
    "in_spec": _tree,
    "out_spec": _tree,
    "name": _name,
    "as_name": _name,
    "forward_arg_names": _name,
    "as_string": lambda text: True,  # written with repr
    "guards_code": lambda text: True,  # mohs asks for no guards, and nothing else runs them
}
