"""The faults that can be put into any Python file: in comparisons, arithmetic, conditions and constants."""

import ast
import itertools
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


def count_faults(source: str) -> int:
    """Return how many faults can be put into a source."""
    return sum(1 for _ in _places(ast.parse(source)))


def fault(source: str, index: int) -> tuple[str, str]:
    r"""Return the line and kind of one of the faults of a source, and the source with it.

    Annotations, docstrings and the messages of errors are left alone, and the constants of the module: a
    bound or a timeout that is larger by one serves its purpose. So is the size -1 of a reshape: NumPy takes
    any negative one for the size that follows from the others.

    >>> fault("def f(a):\n    return a < 1\n", 0)
    ('2 Lt to LtE', 'def f(a):\n    return a <= 1')
    >>> fault("def f(a):\n    return a < 1\n", 1)
    ('2 1 to 2', 'def f(a):\n    return a < 2')
    """
    tree = ast.parse(source)
    node = next(itertools.islice(_places(tree), index, None))
    name = f"{node.lineno} {_change(node)}"
    return name, ast.unparse(ast.fix_missing_locations(tree))


def _places(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the nodes that can be changed, in the order of the text."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "type_params", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
                continue
            if isinstance(tree, ast.Module) and isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            if _is_reshape(tree) and isinstance(node, ast.UnaryOp):
                continue
            if isinstance(node, ast.expr) and _can_change(node):
                yield node
            yield from _places(node)


def _is_reshape(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="reshape")):
            return True
    return False


def _can_change(node: ast.expr) -> bool:
    match node:
        case ast.Compare(ops=[op]) | ast.BinOp(op=op) | ast.BoolOp(op=op):
            return type(op) in _SWAPS
        case ast.UnaryOp(op=ast.Not()) | ast.Constant(value=bool() | int() | float()):
            return True
    return False


def _change(node: ast.expr) -> str:
    """Change a node in place; return what was done."""
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
    raise AssertionError(f"{ast.unparse(node)} cannot be changed")
