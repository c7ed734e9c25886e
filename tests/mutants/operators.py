"""The faults that can be put into any Python file: in comparisons, arithmetic, conditions and constants."""

import ast
import copy
from collections.abc import Iterator

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def faults_in(source: str) -> Iterator[tuple[str, str, str]]:
    r"""Yield (line and kind, the whole text, the whole text with one fault) for each fault.

    Annotations, docstrings and the messages of errors are left alone.

    >>> [(name, new) for name, _, new in faults_in("def f(a):\n    return a < 1\n")]
    [('2 Lt to LtE', 'def f(a):\n    return a <= 1'), ('2 1 to 2', 'def f(a):\n    return a < 2')]
    """
    tree = ast.parse(source)
    count = sum(1 for _ in _places(tree))
    for number in range(count):
        changed = copy.deepcopy(tree)
        node = list(_places(changed))[number]
        name = _change(node)
        if name:
            yield (
                f"{getattr(node, 'lineno', 0)} {name}",
                source,
                ast.unparse(ast.fix_missing_locations(changed)),
            )


def _places(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that can be changed, in the order of the text."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "type_params", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
                continue
            if isinstance(node, ast.Compare | ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.Constant):
                yield node
            yield from _places(node)


def _change(node: ast.AST) -> str:
    """Change a node in place; return what was done, or "" if it has no fault."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in _SWAPS:
            node.ops = [_SWAPS[type(op)]()]  # type: ignore[list-item]
            return f"{type(op).__name__} to {type(node.ops[0]).__name__}"
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in _SWAPS:
            node.op = _SWAPS[type(op)]()  # type: ignore[assignment]
            return f"{type(op).__name__} to {type(node.op).__name__}"
        case ast.UnaryOp(op=ast.Not()):
            node.op = ast.UAdd()
            node.operand = ast.Call(ast.Name("bool", ast.Load()), [node.operand], [])
            return "without not"
        case ast.Constant(value=bool() as value):
            node.value = not value
            return f"{value} to {not value}"
        case ast.Constant(value=int() | float() as value):
            node.value = value + 1
            return f"{value} to {value + 1}"
    return ""
