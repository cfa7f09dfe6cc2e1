"""Which texts of an exported program are inert: torch makes code of many of them when it reads or runs the program."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision)\.[a-z_]\w*\.\w+"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.sym_\w+|math\.[a-z]\w*"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
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


def suspicious(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of the program that is not of the kind that its key promises."""
    if isinstance(node, dict):
        for name, value in node.items():
            if not _WORD.fullmatch(name):
                yield "key", name
            if name != "metadata":  # stack traces and the like, which are only ever shown
                yield from suspicious(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from suspicious(value, key)
    elif isinstance(node, str) and not _KINDS.get(key, _word)(node):
        yield key, node


def _word(text: str) -> bool:
    return bool(_WORD.fullmatch(text))


def _name(text: str) -> bool:
    return bool(_NAME.fullmatch(text))


def _operator(text: str) -> bool:
    return bool(_OPERATOR.fullmatch(text)) and "__" not in text and not re.search(r"\.(save|from_file)\b", text)


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
