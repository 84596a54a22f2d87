"""The parts of a parsed template, and how they are rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pymachine.gotemplate.errors import Break, Continue, TemplateError, executing
from pymachine.gotemplate.functions import FUNCTIONS, LAZY
from pymachine.gotemplate.values import Struct, is_true, quoted, to_text

_DEEPEST_CALL = 100


@dataclass
class Scope:
    """What the dot and the variables are; an inner one sees, and can assign, the outer one's variables."""

    dot: Any
    defined: Mapping[str, Sequence[Node]]
    out: list[str]
    outer: Scope | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    depth: int = 0

    def inner(self, dot: Any) -> Scope:
        """A scope inside this one."""
        return Scope(dot, self.defined, self.out, self, {}, self.depth)

    def owner(self, name: str) -> Scope:
        """The scope that has declared a variable."""
        scope = self
        while name not in scope.variables:
            if scope.outer is None:
                raise executing(f'undefined variable "{name}"')
            scope = scope.outer
        return scope


class Operand(Protocol):
    """A value in a command."""

    def evaluate(self, scope: Scope) -> Any:
        """The value there."""


class Node(Protocol):
    """A part of a template."""

    def render(self, scope: Scope) -> None:
        """Append the text to the scope's output."""


# -- operands ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """A string, a number, true, false or nil."""

    value: Any

    def evaluate(self, scope: Scope) -> Any:  # noqa: ARG002
        return self.value


@dataclass(frozen=True)
class Dot:
    """``.``"""

    def evaluate(self, scope: Scope) -> Any:
        return scope.dot


@dataclass(frozen=True)
class Variable:
    """``$x``"""

    name: str

    def evaluate(self, scope: Scope) -> Any:
        return scope.owner(self.name).variables[self.name]


@dataclass(frozen=True)
class Function:
    """A function's name, alone or in front of its arguments."""

    name: str

    def evaluate(self, scope: Scope) -> Any:
        return call(self.name, (), scope)


@dataclass(frozen=True)
class Fields:
    """``.a.b`` of something."""

    of: Operand
    names: tuple[str, ...]

    def evaluate(self, scope: Scope) -> Any:
        value = self.of.evaluate(scope)
        for name in self.names:
            value = _member(value, name)
        return value


def _member(value: Any, name: str) -> Any:
    if isinstance(value, Struct):
        if name not in value:
            raise executing(f"can't evaluate field {name} in type {value.type_name}")
        return value[name]
    if value is None or isinstance(value, Mapping):
        return None if value is None else value.get(name)
    raise executing(f"can't evaluate field {name} in type interface {{}}")


@dataclass(frozen=True)
class Command:
    """A value, or a function with its arguments."""

    words: tuple[Operand, ...]

    def evaluate(self, scope: Scope, piped: tuple[Any, ...]) -> Any:
        """The value, with what came through the pipe as the last argument."""
        head, *rest = self.words
        if isinstance(head, Function):
            return call(head.name, rest, scope, piped)
        if rest or piped:
            if isinstance(head, Fields):
                raise executing(f"{head.names[-1]} is not a method but has arguments")
            raise executing(f"can't give argument to non-function {_shown(head)}")
        if isinstance(head, Constant) and head.value is None:
            raise executing("nil is not a command")
        return head.evaluate(scope)


def _shown(operand: Operand) -> str:
    if isinstance(operand, Constant):
        return quoted(operand.value) if isinstance(operand.value, str) else to_text(operand.value)
    return operand.name if isinstance(operand, Variable) else "."


@dataclass(frozen=True)
class Pipeline:
    """Commands, each of which gets the value of the one before."""

    commands: tuple[Command, ...]

    def evaluate(self, scope: Scope) -> Any:
        value = self.commands[0].evaluate(scope, ())
        for command in self.commands[1:]:
            value = command.evaluate(scope, (value,))
        return value


def call(name: str, operands: Sequence[Operand], scope: Scope, piped: tuple[Any, ...] = ()) -> Any:
    """The value of a function. Raises `TemplateError` with Go's words."""
    if name in LAZY:
        return _short_circuit(name, operands, scope, piped)
    arguments = [*(operand.evaluate(scope) for operand in operands), *piped]
    try:
        return FUNCTIONS[name](*arguments)
    except TemplateError:
        raise
    except TypeError as error:
        if "positional argument" in str(error):
            raise executing(f"wrong number of args for {name}: got {len(arguments)}") from error
        raise executing(f"error calling {name}: {error}") from error
    except (ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise executing(f"error calling {name}: {error}") from error


def _short_circuit(name: str, operands: Sequence[Operand], scope: Scope, piped: tuple[Any, ...]) -> Any:
    """``and`` and ``or``: arguments are evaluated until the answer is certain."""
    if not operands and not piped:
        raise executing(f"wrong number of args for {name}: want at least 1 got 0")
    value: Any = None
    for operand in [*operands, *(Constant(value) for value in piped)]:
        value = operand.evaluate(scope)
        if is_true(value) == (name == "or"):
            break
    return value


# -- nodes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """What is outside of actions."""

    text: str

    def render(self, scope: Scope) -> None:
        scope.out.append(self.text)


@dataclass(frozen=True)
class Output:
    """A pipeline whose value is printed, or kept in a variable."""

    declared: list[str]
    pipeline: Pipeline
    assigned: bool

    def render(self, scope: Scope) -> None:
        value = self.pipeline.evaluate(scope)
        if not self.declared:
            scope.out.append("<no value>" if value is None else to_text(value))
            return
        for name in self.declared:
            (scope.owner(name) if self.assigned else scope).variables[name] = value


@dataclass(frozen=True)
class Jump:
    """``break`` or ``continue``."""

    word: str

    def render(self, scope: Scope) -> None:  # noqa: ARG002
        raise Break if self.word == "break" else Continue


@dataclass(frozen=True)
class Call:
    """``template`` or ``block``."""

    name: str
    argument: Pipeline | None

    def render(self, scope: Scope) -> None:
        if self.name not in scope.defined:
            raise executing(f'template "{self.name}" not defined')
        if scope.depth >= _DEEPEST_CALL:
            raise executing(f"exceeded maximum template depth ({_DEEPEST_CALL})")
        dot = self.argument.evaluate(scope) if self.argument is not None else None
        run(self.defined_body(scope), Scope(dot, scope.defined, scope.out, None, {"$": dot}, scope.depth + 1))

    def defined_body(self, scope: Scope) -> Sequence[Node]:
        """The nodes of the template that is called."""
        return scope.defined[self.name]


@dataclass(frozen=True)
class Branch:
    """``if``, ``with`` or ``range``."""

    word: str
    declared: list[str]
    assigned: bool
    pipeline: Pipeline
    body: list[Node]
    otherwise: list[Node]

    def render(self, scope: Scope) -> None:
        inner = scope.inner(scope.dot)
        value = self.pipeline.evaluate(inner)
        if self.word == "range":
            self._each(value, inner)
            return
        for name in self.declared:
            (inner.owner(name) if self.assigned else inner).variables[name] = value
        if is_true(value):
            inner.dot = value if self.word == "with" else scope.dot
            run(self.body, inner)
        else:
            run(self.otherwise, inner)

    def _each(self, value: Any, scope: Scope) -> None:
        pairs = _pairs(value)
        if not pairs:
            run(self.otherwise, scope)
            return
        for pair in pairs:
            each = scope.inner(pair[1])
            for name, part in zip(self.declared, pair[-len(self.declared) :] if self.declared else (), strict=True):
                (each.owner(name) if self.assigned else each).variables[name] = part
            try:
                run(self.body, each)
            except Continue:
                continue
            except Break:
                break


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    raise executing(f"range can't iterate over {to_text(value)}")


def run(nodes: Sequence[Node], scope: Scope) -> None:
    """Render `nodes` in turn."""
    for node in nodes:
        node.render(scope)


class Template:
    """A parsed template."""

    def __init__(self, body: list[Node], defined: Mapping[str, Sequence[Node]]) -> None:
        self._body = body
        self._defined = defined

    def render(self, data: Any, *, strict: bool = False) -> str:
        """The text for `data`. Raises `TemplateError` if it cannot be executed.

        With `strict` the top of `data` is like a struct of Go's: a field that it has not is an error.
        """
        dot = Struct(data) if strict else data
        scope = Scope(dot, self._defined, [], None, {"$": dot})
        try:
            run(self._body, scope)
        except RecursionError as error:
            raise executing("nested too deeply") from error
        return "".join(scope.out)
