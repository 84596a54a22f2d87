"""The parts of a parsed template, and how they are rendered.

What is named in an error is what was evaluated last, as in Go: `Scope.look_at` notes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pymachine.gotemplate import functions
from pymachine.gotemplate.errors import Break, Continue, Failure, TemplateError
from pymachine.gotemplate.formatting import dereferenced, printed, to_text
from pymachine.gotemplate.functions import FUNCTIONS, LAZY, STRING, TEXTS
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
    is_true,
    type_name,
    unboxed,
)

_DEEPEST_CALL = 100


class Mark(NamedTuple):
    """Where a part is in the source, and how errors show it."""

    at: int
    text: str


@dataclass
class Run:
    """One run of a template, or of one that it calls: its name, its source, and what is being evaluated."""

    name: str
    source: str
    mark: Mark = field(default_factory=lambda: Mark(0, ""))

    def error(self, text: str) -> TemplateError:
        """The error for what went wrong at `mark`."""
        before = self.source[: self.mark.at].encode()
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1)
        shown = self.mark.text
        return TemplateError(f'template: :{line}:{column}: executing "{self.name}" at <{shown}>: {text}')


@dataclass
class Scope:
    """What the dot and the variables are; an inner one sees, and can assign, the outer one's variables."""

    dot: Any
    defined: Mapping[str, Sequence[Node]]
    out: list[str]
    run: Run
    outer: Scope | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    depth: int = 0

    def inner(self, dot: Any) -> Scope:
        """A scope inside this one."""
        return Scope(dot, self.defined, self.out, self.run, self, {}, self.depth)

    def look_at(self, mark: Mark) -> None:
        """Note what is evaluated now."""
        self.run.mark = mark

    def owner(self, name: str) -> Scope:
        """The scope that has declared a variable."""
        scope = self
        while name not in scope.variables:
            if scope.outer is None:
                raise Failure(f"undefined variable: {name}")
            scope = scope.outer
        return scope


class Node(Protocol):
    """A part of a template."""

    def render(self, scope: Scope) -> None:
        """Append the text to the scope's output."""


class Operand(Protocol):
    """A value in a command."""

    @property
    def mark(self) -> Mark:
        """Where it is."""

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        """The value of a command that begins with it; `piped` has what came through a pipe, if anything did."""

    def argument(self, scope: Scope) -> Any:
        """Its value as an argument."""


# -- operands ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """A string, a number, true, false or nil."""

    value: Any
    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.look_at(self.mark)
        _refuse_arguments(command, piped)
        if self.value is None:
            raise Failure("nil is not a command")
        return self.value

    def argument(self, scope: Scope) -> Any:
        scope.look_at(self.mark)
        return self.value


@dataclass(frozen=True)
class Dot:
    """``.``"""

    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.look_at(self.mark)
        _refuse_arguments(command, piped)
        return scope.dot

    def argument(self, scope: Scope) -> Any:
        scope.look_at(self.mark)
        return scope.dot


@dataclass(frozen=True)
class Variable:
    """``$x``, or ``$x.a.b``"""

    name: str
    names: tuple[str, ...]
    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.look_at(self.mark)
        value = scope.owner(self.name).variables[self.name]
        if self.names:
            return _members(scope, value, self.names, command.words[1:], piped)
        _refuse_arguments(command, piped)
        return value

    def argument(self, scope: Scope) -> Any:
        scope.look_at(self.mark)
        return _members(scope, scope.owner(self.name).variables[self.name], self.names)


@dataclass(frozen=True)
class Fields:
    """``.a.b``"""

    names: tuple[str, ...]
    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.look_at(self.mark)
        return _members(scope, scope.dot, self.names, command.words[1:], piped)

    def argument(self, scope: Scope) -> Any:
        scope.look_at(self.mark)
        return _members(scope, scope.dot, self.names)


@dataclass(frozen=True)
class Chain:
    """``(...).a.b``"""

    of: Operand
    names: tuple[str, ...]
    mark: Mark

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        scope.look_at(self.mark)
        value = self.of.argument(scope)
        return _members(scope, value, self.names, command.words[1:], piped)

    def argument(self, scope: Scope) -> Any:
        scope.look_at(self.mark)
        return _members(scope, self.of.argument(scope), self.names)


@dataclass(frozen=True)
class Function:
    """A function's name, alone or in front of its arguments."""

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
    """Commands, each of which gets the value of the one before."""

    commands: tuple[Command, ...]
    mark: Mark

    def evaluate(self, scope: Scope) -> Any:
        """The value of the last command, out of its box."""
        scope.look_at(self.mark)
        piped: tuple[Any, ...] = ()
        for command in self.commands:
            value = command.words[0].command(scope, command, piped)
            piped = (value.value if isinstance(value, Boxed) else value,)
        return piped[0]

    def command(self, scope: Scope, command: Command, piped: tuple[Any, ...]) -> Any:
        _refuse_arguments(command, piped)
        return self.evaluate(scope)

    def argument(self, scope: Scope) -> Any:
        scope.look_at(self.mark)
        return self.evaluate(scope)


def _refuse_arguments(command: Command, piped: tuple[Any, ...]) -> None:
    if len(command.words) > 1 or piped:
        raise Failure(f"can't give argument to non-function {command.words[0].mark.text}")


# -- fields and methods --------------------------------------------------------------------------------------------


def _members(
    scope: Scope, value: Any, names: Sequence[str], words: Sequence[Operand] = (), piped: tuple[Any, ...] = ()
) -> Any:
    """``value.a.b``; the last name may be a method's, with arguments."""
    for number, name in enumerate(names, start=1):
        last = number == len(names)
        value = _member(scope, value, name, words if last else (), piped if last else ())
    return value


def _member(scope: Scope, receiver: Any, name: str, words: Sequence[Operand], piped: tuple[Any, ...]) -> Any:
    if receiver is NO_VALUE or receiver is None:
        return NO_VALUE
    type_ = type_name(receiver)
    value = unboxed(receiver)
    if value is None or (isinstance(value, Pointer) and value.target is None and name in value.fields):
        if isinstance(value, Pointer) and value.lenient:
            return NO_VALUE
        raise Failure(f"nil pointer evaluating {type_}.{name}")
    value = dereferenced(value)
    if isinstance(value, Named) and name in value.methods:
        return _method(scope, value, name, words, piped)
    if isinstance(value, Struct) and name in value.fields:
        if words or piped:
            raise Failure(f"{name} has arguments but cannot be invoked as function")
        return value.fields[name]
    if isinstance(value, Mapping):
        if words or piped:
            raise Failure(f"{name} is not a method but has arguments")
        if name not in value:
            return NO_VALUE
        return value[name] if isinstance(value, TextMap) else Boxed(value[name])
    raise Failure(f"can't evaluate field {name} in type {type_}")


def _method(scope: Scope, value: Named, name: str, words: Sequence[Operand], piped: tuple[Any, ...]) -> Any:
    method: Method = value.methods[name]
    count = len(words) + len(piped)
    if count != len(method.arguments):
        raise Failure(f"wrong number of args for {name}: want {len(method.arguments)} got {count}")
    arguments = [_integer(scope, word, type_) for word, type_ in zip(words, method.arguments, strict=False)]
    for one, type_ in zip(piped, method.arguments[len(words) :], strict=True):
        arguments.append(_assignable(one, type_))
    return method.function(value, *arguments)


def _integer(scope: Scope, word: Operand, type_: str) -> Any:
    """An argument of a named integer type, which a whole constant can be."""
    if not isinstance(word, Constant):
        return _assignable(word.argument(scope), type_)
    scope.look_at(word.mark)
    value = word.value
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise Failure(f"cannot assign nil to {type_}" if value is None else f"expected integer; found {word.mark.text}")
    return functions.named_integer(type_, int(value))


def _assignable(value: Any, type_: str) -> Any:
    """`value`, if its type is `type_`."""
    if isinstance(value, Boxed) and value.value is None:
        raise Failure(f"wrong type for value; expected {type_}; got {type_name(value)}")
    value = unboxed(value)
    if value is None and type_ == TEXTS:
        return []
    if value is None:
        raise Failure(f"invalid value; expected {type_}")
    lists = type_ == TEXTS and isinstance(value, list | tuple)
    if type_name(value) != type_ and not lists:
        raise Failure(f"wrong type for value; expected {type_}; got {type_name(value)}")
    return value


# -- functions -----------------------------------------------------------------------------------------------------


def call(scope: Scope, function: Function, mark: Mark, words: Sequence[Operand], piped: tuple[Any, ...]) -> Any:
    """The value of a function; `mark` is the whole command's."""
    scope.look_at(function.mark)
    name, signature = function.name, FUNCTIONS[function.name]
    least, count = len(signature.fixed), len(words) + len(piped)
    if signature.more and count < least:
        raise Failure(f"wrong number of args for {name}: want at least {least} got {len(words)}")
    if not signature.more and count != least:
        raise Failure(f"wrong number of args for {name}: want {least} got {count}")
    if name in LAZY:
        return _short_circuit(name, words, scope, piped)
    types = [*signature.fixed, *[signature.more] * (count - least)]
    arguments = [_argument(scope, word, type_) for word, type_ in zip(words, types, strict=False)]
    if piped:
        arguments.append(_assignable(piped[0], types[-1]) if types[-1] in {STRING, TEXTS} else unboxed(piped[0]))
    try:
        return signature.function(*arguments)
    except Failure as failure:
        scope.look_at(mark)
        raise Failure(f"error calling {name}: {failure}") from failure
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        scope.look_at(mark)
        raise Failure(f"error calling {name}: {error}") from error


def _argument(scope: Scope, word: Operand, type_: str) -> Any:
    if type_ not in {STRING, TEXTS}:
        return unboxed(word.argument(scope))
    if isinstance(word, Constant):
        scope.look_at(word.mark)
        if word.value is None:
            raise Failure(f"cannot assign nil to {type_}")
        if type_ != STRING or not isinstance(word.value, str):
            raise Failure(f"expected {type_}; found {word.mark.text}")
    return _assignable(word.argument(scope), type_)


def _short_circuit(name: str, words: Sequence[Operand], scope: Scope, piped: tuple[Any, ...]) -> Any:
    """``and`` and ``or``: arguments are evaluated until the answer is certain."""
    value: Any = None
    for word in words:
        value = unboxed(word.argument(scope))
        if is_true(value) == (name == "or"):
            return value
    return piped[0] if piped else value


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
            scope.out.append(printed(value))
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
    mark: Mark

    def render(self, scope: Scope) -> None:
        scope.look_at(self.mark)
        if self.name not in scope.defined:
            raise Failure(f'template "{self.name}" not defined')
        if scope.depth >= _DEEPEST_CALL:
            raise Failure(f"exceeded maximum template depth ({_DEEPEST_CALL})")
        dot = self.argument.evaluate(scope) if self.argument is not None else None
        inner = Run(self.name, scope.run.source)
        run(scope.defined[self.name], Scope(dot, scope.defined, scope.out, inner, None, {"$": dot}, scope.depth + 1))


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
            render_all(self.body, inner)
        else:
            render_all(self.otherwise, inner)

    def _each(self, value: Any, scope: Scope) -> None:
        pairs = _pairs(value)
        if not pairs:
            render_all(self.otherwise, scope)
            return
        for pair in pairs:
            each = scope.inner(pair[1])
            for name, part in zip(self.declared, pair[-len(self.declared) :] if self.declared else (), strict=True):
                (each.owner(name) if self.assigned else each).variables[name] = part
            try:
                render_all(self.body, each)
            except Continue:
                continue
            except Break:
                break


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    value = dereferenced(unboxed(value))
    if value is None:
        return []
    typed = isinstance(value, Strings | TextMap)
    if isinstance(value, Mapping):
        return [(key, value[key] if typed else Boxed(value[key])) for key in sorted(value)]
    if isinstance(value, list | tuple):
        return [(at, entry if typed else Boxed(entry)) for at, entry in enumerate(value)]
    raise Failure(f"range can't iterate over {to_text(value)}")


def render_all(nodes: Sequence[Node], scope: Scope) -> None:
    """Render `nodes` in turn."""
    for node in nodes:
        node.render(scope)


def run(nodes: Sequence[Node], scope: Scope) -> None:
    """Render a template. Raises `TemplateError`, with the part of it that was being evaluated."""
    try:
        render_all(nodes, scope)
    except Failure as failure:
        raise scope.run.error(str(failure)) from failure
    except RecursionError as error:
        raise scope.run.error("nested too deeply") from error


class Template:
    """A parsed template."""

    def __init__(self, source: str, body: list[Node], defined: Mapping[str, Sequence[Node]]) -> None:
        self._source = source
        self._body = body
        self._defined = defined

    def render(self, data: Any) -> str:
        """The text for `data`: JSON, or a value of `pymachine.gotemplate.types`.

        Raises `TemplateError` if the template cannot be executed; what had been rendered by then is in it.
        """
        dot = from_json(data)
        scope = Scope(dot, self._defined, [], Run("", self._source), None, {"$": dot})
        try:
            run(self._body, scope)
        except TemplateError as error:
            error.partial = "".join(scope.out)
            raise
        return "".join(scope.out)
