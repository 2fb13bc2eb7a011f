"""Random mutants of the modules on which right data depends.

A mutant is one small change of the source, made by an operator of Cosmic Ray: another comparison, another
number, a negated condition, a loop that is not entered. Those that cannot have an effect are not drawn: they
leave the *essence* of the module as it was.
"""

from __future__ import annotations

import ast
import difflib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module: the ``number``-th place where the operator fits."""

    module: str
    operator: str
    number: int

    def __str__(self) -> str:
        return f"{self.module} {self.operator.removeprefix('core/')} {self.number}"

    @property
    def source(self) -> str:
        """The changed module."""
        original = text(self.module)
        return mutate_code(original, get_operator(self.operator)(), self.number) or original

    @property
    def difference(self) -> str:
        """The change, as diff prints it."""
        old, new = text(self.module).splitlines(), self.source.splitlines()
        return "\n".join(difflib.unified_diff(old, new, self.module, "mutant", lineterm=""))


@cache
def text(module: str) -> str:
    """The source of a module, without a mutant."""
    return (ROOT / module).read_text()


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn, and how many mutants were passed over because they cannot have an effect."""

    mutants: tuple[Mutant, ...]
    without_effect: int


def draw(modules: Sequence[str], count: int, seed: int) -> Draw:
    """``count`` mutants at random, all equally likely, of those that may have an effect."""
    every = [mutant for module in modules for mutant in _mutants(module)]
    drawn: list[Mutant] = []
    passed_over = 0
    for mutant in random.Random(seed).sample(every, len(every)):
        if len(drawn) == count:
            break
        if _may_have_effect(mutant):
            drawn.append(mutant)
        else:
            passed_over += 1
    return Draw(tuple(drawn), passed_over)


def _mutants(module: str) -> Iterator[Mutant]:
    nodes = list(ast_nodes(get_ast(text(module))))
    for name in sorted(operator_names()):
        if get_operator(name).arguments():
            continue  # such as renaming a variable that the caller has to choose
        operator = get_operator(name)()
        places = sum(1 for node in nodes for _ in operator.mutation_positions(node))
        yield from (Mutant(module, name, number) for number in range(places))


def _may_have_effect(mutant: Mutant) -> bool:
    try:
        return essence(mutant.source) != essence(text(mutant.module))
    except SyntaxError:
        return False


@cache
def essence(source: str) -> str:
    """The program without what cannot change what is read, stored, found, kept or removed."""
    return ast.dump(_Essence().visit(ast.parse(source)))


class _Essence(ast.NodeTransformer):
    """Each method is one rule; docs/decisions.md gives the reasons."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Annotations are not evaluated."""
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Annotations are not evaluated."""
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Annotations are not evaluated."""
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """The methods of a Protocol are never called."""
        if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
            node.body = [ast.Pass()]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """``slots`` saves memory; ``zip(strict=True)`` asserts what holds of all callers."""
        dropped = {"dataclass": "slots", "zip": "strict"}.get(getattr(node.func, "id", ""))
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != dropped]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """What an error says that only a fault of the program could raise."""
        error = node.exc
        if isinstance(error, ast.Call) and getattr(error.func, "id", "") in {
            "RuntimeError",
            "AssertionError",
        }:
            error.args = []
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Members of an enumeration are equal if they are the same; no number is below ZERO or MISS."""
        node.ops = [_plain(op, right) for op, right in zip(node.ops, node.comparators, strict=True)]
        return self.generic_visit(node)


def _plain(op: ast.cmpop, right: ast.expr) -> ast.cmpop:
    same: dict[type[ast.cmpop], ast.cmpop] = {}
    if isinstance(right, ast.Attribute) and getattr(right.value, "id", "") in {"Kind", "PackKind", "Cipher"}:
        same = {ast.Is: ast.Eq(), ast.IsNot: ast.NotEq()}
    if isinstance(right, ast.Name) and right.id in {"ZERO", "MISS"}:
        same = {ast.LtE: ast.Eq(), ast.Gt: ast.NotEq()}
    return same.get(type(op), op)
