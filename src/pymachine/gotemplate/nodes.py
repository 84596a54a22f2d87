"""The nodes of a parsed template, and how they are rendered.

An error names the part that was evaluated last, as in Go; `Scope.mark_current` records it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pymachine.gotemplate import functions
from pymachine.gotemplate.errors import BreakLoop, ContinueLoop, EvaluationError, FormatError
from pymachine.gotemplate.formatting import action_text, dereference, to_text
from pymachine.gotemplate.functions import FUNCTIONS, SHORT_CIRCUITING, STRING, TEXTS
from pymachine.gotemplate.types import (
    NO_VALUE,
    Boxed,
    Method,
    Named,
    Pointer,
    Strings,
    Struct,
    TextMap,
    from_json,
    is_truthy,
    type_name,
    unbox,
)

_MAX_CALL_DEPTH = 100


class Mark(NamedTuple):
    """The position of a part in the source, and its text in error messages."""

    offset: int
    text: str


@dataclass
class Execution:
    """One execution of a template or of a template that it calls: name, source, and the part being evaluated."""

    name: str
    source: str
    mark: Mark = field(default_factory=lambda: Mark(0, ""))

    def error(self, text: str) -> FormatError:
        """Return the error for a failure at `mark`."""
        before = self.source[: self.mark.offset].encode()
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1)
        shown = self.mark.text
        return FormatError(f'template: :{line}:{column}: executing "{self.name}" at <{shown}>: {text}')


@dataclass
class Scope:
    """The dot and the variables. An inner scope can read and assign the outer scope's variables."""

    dot: Any
    defined: Mapping[str, Sequence[Node]]
    out: list[str]
    execution: Execution
    outer: Scope | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    depth: int = 0

    def inner(self, dot: Any) -> Scope:
        """Return a new scope inside this one."""
        return Scope(dot, self.defined, self.out, self.execution, self, {}, self.depth)

    def mark_current(self, mark: Mark) -> None:
        """Record the part that is being evaluated."""
        self.execution.mark = mark

    def declaring_scope(self, name: str) -> Scope:
        """Return the scope that declared a variable."""
        scope = self
        while name not in scope.variables:
            if scope.outer is None:
                raise EvaluationError(f"undefined variable: {name}")
            scope = scope.outer
        return scope


class Node(Protocol):
    """A part of a template that can be rendered."""

    def render(self, scope: Scope) -> None:
        """Append its text to the scope's output."""


class Operand(Protocol):
    """A value in a command."""

    @property
    def mark(self) -> Mark:
        """Its position and text."""

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        """Return the value of a command that starts with this operand; `piped` has the value from a pipe, if any."""

    def argument(self, scope: Scope) -> Any:
        """Return its value as an argument."""


# -- operands ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """A string, a number, true, false or nil."""

    value: Any
    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.mark_current(self.mark)
        _refuse_arguments(command, piped)
        if self.value is None:
            raise EvaluationError("nil is not a command")
        return self.value

    def argument(self, scope: Scope) -> Any:
        scope.mark_current(self.mark)
        return self.value


@dataclass(frozen=True)
class Dot:
    """``.``"""

    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.mark_current(self.mark)
        _refuse_arguments(command, piped)
        return scope.dot

    def argument(self, scope: Scope) -> Any:
        scope.mark_current(self.mark)
        return scope.dot


@dataclass(frozen=True)
class Variable:
    """``$x``, or ``$x.a.b``"""

    name: str
    names: tuple[str, ...]
    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.mark_current(self.mark)
        value = scope.declaring_scope(self.name).variables[self.name]
        if self.names:
            return _resolve_fields(scope, value, self.names, command.words[1:], piped)
        _refuse_arguments(command, piped)
        return value

    def argument(self, scope: Scope) -> Any:
        scope.mark_current(self.mark)
        return _resolve_fields(scope, scope.declaring_scope(self.name).variables[self.name], self.names)


@dataclass(frozen=True)
class Fields:
    """``.a.b``"""

    names: tuple[str, ...]
    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.mark_current(self.mark)
        return _resolve_fields(scope, scope.dot, self.names, command.words[1:], piped)

    def argument(self, scope: Scope) -> Any:
        scope.mark_current(self.mark)
        return _resolve_fields(scope, scope.dot, self.names)


@dataclass(frozen=True)
class Chain:
    """``(...).a.b``"""

    operand: Operand
    names: tuple[str, ...]
    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.mark_current(self.mark)
        value = self.operand.argument(scope)
        return _resolve_fields(scope, value, self.names, command.words[1:], piped)

    def argument(self, scope: Scope) -> Any:
        scope.mark_current(self.mark)
        return _resolve_fields(scope, self.operand.argument(scope), self.names)


@dataclass(frozen=True)
class Function:
    """A function's name, with or without arguments after it."""

    name: str
    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        return call(scope, self, command.mark, command.words[1:], piped)

    def argument(self, scope: Scope) -> Any:
        return call(scope, self, self.mark, (), ())


@dataclass(frozen=True)
class Command:
    """A value, or a function or method with its arguments."""

    words: tuple[Operand, ...]
    mark: Mark


@dataclass(frozen=True)
class Pipeline:
    """Commands that each receive the value of the previous one."""

    commands: tuple[Command, ...]
    mark: Mark

    def evaluate(self, scope: Scope) -> Any:
        """Return the value of the last command, unboxed."""
        scope.mark_current(self.mark)
        piped: tuple[Any, ...] = ()
        for command in self.commands:
            value = command.words[0].command(scope, command, piped)
            piped = (value.value if isinstance(value, Boxed) else value,)
        return piped[0]

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        _refuse_arguments(command, piped)
        return self.evaluate(scope)

    def argument(self, scope: Scope) -> Any:
        scope.mark_current(self.mark)
        return self.evaluate(scope)


def _refuse_arguments(command: Command, piped: tuple[Any, ...]) -> None:
    if len(command.words) > 1 or piped:
        raise EvaluationError(f"can't give argument to non-function {command.words[0].mark.text}")


# -- fields and methods --------------------------------------------------------------------------------------------


def _resolve_fields(
    scope: Scope, value: Any, names: Sequence[str], words: Sequence[Operand] = (), piped: tuple[Any, ...] = ()
) -> Any:
    """Evaluate ``value.a.b``. The last name may be a method with arguments."""
    for number, name in enumerate(names, start=1):
        last = number == len(names)
        value = _resolve_field(scope, value, name, words if last else (), piped if last else ())
    return value


def _resolve_field(scope: Scope, receiver: Any, name: str, words: Sequence[Operand], piped: tuple[Any, ...]) -> Any:
    if receiver is NO_VALUE or receiver is None:
        return NO_VALUE
    type_ = type_name(receiver)
    value = unbox(receiver)
    if value is None or (isinstance(value, Pointer) and value.target is None and name in value.fields):
        if isinstance(value, Pointer) and value.lenient:
            return NO_VALUE
        raise EvaluationError(f"nil pointer evaluating {type_}.{name}")
    value = dereference(value)
    if isinstance(value, Named) and name in value.methods:
        return _call_method(scope, value, name, words, piped)
    if isinstance(value, Struct) and (name in value.fields or name in value.additional):
        if words or piped:
            raise EvaluationError(f"{name} has arguments but cannot be invoked as function")
        return value.fields[name] if name in value.fields else value.additional[name]
    if isinstance(value, Mapping):
        if words or piped:
            raise EvaluationError(f"{name} is not a method but has arguments")
        if name not in value:
            return NO_VALUE
        return value[name] if isinstance(value, TextMap) else Boxed(value[name])
    raise EvaluationError(f"can't evaluate field {name} in type {type_}")


def _call_method(scope: Scope, value: Named, name: str, words: Sequence[Operand], piped: tuple[Any, ...]) -> Any:
    method: Method = value.methods[name]
    count = len(words) + len(piped)
    if count != len(method.arguments):
        raise EvaluationError(f"wrong number of args for {name}: want {len(method.arguments)} got {count}")
    arguments = [_integer(scope, word, type_) for word, type_ in zip(words, method.arguments, strict=False)]
    for entry, type_ in zip(piped, method.arguments[len(words) :], strict=True):
        arguments.append(_assignable(entry, type_))
    return method.function(value, *arguments)


def _integer(scope: Scope, word: Operand, type_: str) -> Any:
    """Evaluate an argument of a named integer type; a constant must be a whole number."""
    if not isinstance(word, Constant):
        return _assignable(word.argument(scope), type_)
    scope.mark_current(word.mark)
    value = word.value
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise EvaluationError(
            f"cannot assign nil to {type_}" if value is None else f"expected integer; found {word.mark.text}"
        )
    return functions.named_integer(type_, int(value))


def _assignable(value: Any, type_: str) -> Any:
    """Return `value` if its type is `type_`. Raises `EvaluationError` otherwise."""
    if isinstance(value, Boxed) and value.value is None:
        raise EvaluationError(f"wrong type for value; expected {type_}; got {type_name(value)}")
    value = unbox(value)
    if value is None and type_ == TEXTS:
        return []
    if value is None:
        raise EvaluationError(f"invalid value; expected {type_}")
    lists = type_ == TEXTS and isinstance(value, list | tuple)
    if type_name(value) != type_ and not lists:
        raise EvaluationError(f"wrong type for value; expected {type_}; got {type_name(value)}")
    return value


# -- functions -----------------------------------------------------------------------------------------------------


def call(scope: Scope, function: Function, mark: Mark, words: Sequence[Operand], piped: tuple[Any, ...]) -> Any:
    """Call a function and return its value. `mark` is that of the whole command."""
    scope.mark_current(function.mark)
    name, signature = function.name, FUNCTIONS[function.name]
    least, count = len(signature.fixed), len(words) + len(piped)
    if signature.variadic and count < least:
        raise EvaluationError(f"wrong number of args for {name}: want at least {least} got {len(words)}")
    if not signature.variadic and count != least:
        raise EvaluationError(f"wrong number of args for {name}: want {least} got {count}")
    if name in SHORT_CIRCUITING:
        return _short_circuit(name, words, scope, piped)
    types = [*signature.fixed, *[signature.variadic] * (count - least)]
    arguments = [_argument(scope, word, type_) for word, type_ in zip(words, types, strict=False)]
    if piped:
        arguments.append(_assignable(piped[0], types[-1]) if types[-1] in {STRING, TEXTS} else unbox(piped[0]))
    try:
        return signature.function(*arguments)
    except EvaluationError as failure:
        scope.mark_current(mark)
        raise EvaluationError(f"error calling {name}: {failure}") from failure
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        scope.mark_current(mark)
        raise EvaluationError(f"error calling {name}: {error}") from error


def _argument(scope: Scope, word: Operand, type_: str) -> Any:
    if type_ not in {STRING, TEXTS}:
        return unbox(word.argument(scope))
    if isinstance(word, Constant):
        scope.mark_current(word.mark)
        if word.value is None:
            raise EvaluationError(f"cannot assign nil to {type_}")
        if type_ != STRING or not isinstance(word.value, str):
            raise EvaluationError(f"expected {type_}; found {word.mark.text}")
    return _assignable(word.argument(scope), type_)


def _short_circuit(name: str, words: Sequence[Operand], scope: Scope, piped: tuple[Any, ...]) -> Any:
    """Evaluate ``and`` or ``or``: stop at the first argument that decides the result."""
    value: Any = None
    for word in words:
        value = unbox(word.argument(scope))
        if is_truthy(value) == (name == "or"):
            return value
    return piped[0] if piped else value


# -- nodes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Text outside of actions."""

    text: str

    def render(self, scope: Scope) -> None:
        scope.out.append(self.text)


@dataclass(frozen=True)
class Output:
    """A pipeline whose value is printed or stored in a variable."""

    declared: list[str]
    pipeline: Pipeline
    assigned: bool

    def render(self, scope: Scope) -> None:
        value = self.pipeline.evaluate(scope)
        if not self.declared:
            scope.out.append(action_text(value))
            return
        for name in self.declared:
            (scope.declaring_scope(name) if self.assigned else scope).variables[name] = value


@dataclass(frozen=True)
class Jump:
    """``break`` or ``continue``."""

    word: str

    def render(self, scope: Scope) -> None:  # noqa: ARG002
        raise BreakLoop if self.word == "break" else ContinueLoop


@dataclass(frozen=True)
class Call:
    """``template`` or ``block``."""

    name: str
    argument: Pipeline | None
    mark: Mark

    def render(self, scope: Scope) -> None:
        scope.mark_current(self.mark)
        if self.name not in scope.defined:
            raise EvaluationError(f'template "{self.name}" not defined')
        if scope.depth >= _MAX_CALL_DEPTH:
            raise EvaluationError(f"exceeded maximum template depth ({_MAX_CALL_DEPTH})")
        dot = self.argument.evaluate(scope) if self.argument is not None else None
        inner = Execution(self.name, scope.execution.source)
        execute(
            scope.defined[self.name], Scope(dot, scope.defined, scope.out, inner, None, {"$": dot}, scope.depth + 1)
        )


@dataclass(frozen=True)
class Branch:
    """``if``, ``with`` or ``range``."""

    word: str
    declared: list[str]
    assigned: bool
    pipeline: Pipeline
    body: list[Node]
    else_body: list[Node]

    def render(self, scope: Scope) -> None:
        inner = scope.inner(scope.dot)
        value = self.pipeline.evaluate(inner)
        if self.word == "range":
            self._render_range(value, inner)
            return
        for name in self.declared:
            (inner.declaring_scope(name) if self.assigned else inner).variables[name] = value
        if is_truthy(value):
            inner.dot = value if self.word == "with" else scope.dot
            render_all(self.body, inner)
        else:
            render_all(self.else_body, inner)

    def _render_range(self, value: Any, scope: Scope) -> None:
        pairs = _range_items(value)
        if not pairs:
            render_all(self.else_body, scope)
            return
        for pair in pairs:
            each = scope.inner(pair[1])
            for name, part in zip(self.declared, pair[-len(self.declared) :] if self.declared else (), strict=True):
                (each.declaring_scope(name) if self.assigned else each).variables[name] = part
            try:
                render_all(self.body, each)
            except ContinueLoop:
                continue
            except BreakLoop:
                break


def _range_items(value: Any) -> list[tuple[Any, Any]]:
    value = dereference(unbox(value))
    if value is None:
        return []
    typed = isinstance(value, Strings | TextMap)
    if isinstance(value, Mapping):
        return [(key, value[key] if typed else Boxed(value[key])) for key in sorted(value)]
    if isinstance(value, list | tuple):
        return [(at, entry if typed else Boxed(entry)) for at, entry in enumerate(value)]
    raise EvaluationError(f"range can't iterate over {to_text(value)}")


def render_all(nodes: Sequence[Node], scope: Scope) -> None:
    """Render `nodes` in turn."""
    for node in nodes:
        node.render(scope)


def execute(nodes: Sequence[Node], scope: Scope) -> None:
    """Render a template's nodes. Raises `FormatError` that names the part being evaluated."""
    try:
        render_all(nodes, scope)
    except EvaluationError as failure:
        raise scope.execution.error(str(failure)) from failure
    except RecursionError as error:
        raise scope.execution.error("nested too deeply") from error


class Template:
    """A parsed template."""

    def __init__(self, source: str, body: list[Node], defined: Mapping[str, Sequence[Node]]) -> None:
        self._source = source
        self._body = body
        self._defined = defined

    def render(self, data: Any) -> str:
        """Render the template for `data`: JSON, or a value of `pymachine.gotemplate.types`.

        Raises `FormatError` if the template cannot be executed; its `partial` has the text rendered so far.
        """
        dot = from_json(data)
        scope = Scope(dot, self._defined, [], Execution("", self._source), None, {"$": dot})
        try:
            execute(self._body, scope)
        except FormatError as error:
            error.partial = "".join(scope.out)
            raise
        return "".join(scope.out)
