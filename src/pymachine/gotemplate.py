"""Go templates over JSON-like data: the part of Go's text/template that people use in ``--format``.

Actions: field paths, variables, pipelines, ``if``/``else if``/``else``, ``range`` (with ``$i, $e :=``), ``with``,
``end``, comments, and trimming with ``{{-`` and ``-}}``. Functions: json, prettyjson, printf, print, println, index,
len, join, lower, upper, title, split, eq, ne, lt, le, gt, ge, and, or, not. What is missing prints as ``<no value>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pymachine.errors import UsageError


class TemplateError(UsageError):
    """A template that cannot be parsed, or not be executed over the data."""

    code = "template"


class _NoValue:
    def __str__(self) -> str:
        return "<no value>"

    def __bool__(self) -> bool:
        return False


NO_VALUE = _NoValue()
_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>[-+]?[0-9]+(?:\.[0-9]+)?)
    |(?P<field>(?:\$[A-Za-z0-9_]*)?(?:\.[A-Za-z_][A-Za-z0-9_]*)+)|(?P<variable>\$[A-Za-z0-9_]*)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>:=|[.|(),=]))""",
    re.VERBOSE,
)
Scope: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


def _fail(text: str) -> TemplateError:
    return TemplateError(f"template parsing error: template: :1: {text}")


# -- expressions ---------------------------------------------------------------------------------------------------


class _Expressions:
    """Reads the pipeline of one action."""

    def __init__(self, source: str) -> None:
        self._tokens = _tokens(source)
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def take(self) -> _Token:
        if self._at >= len(self._tokens):
            raise _fail("unexpected end of action")
        self._at += 1
        return self._tokens[self._at - 1]

    def ended(self) -> bool:
        return self._at >= len(self._tokens)

    def declaration(self) -> list[str]:
        """The variables in ``$x :=`` or ``$i, $e :=``, if that is what stands here."""
        for names, shape in ((1, ["variable", ":="]), (2, ["variable", ",", "variable", ":="])):
            ahead = self._tokens[self._at : self._at + len(shape)]
            if [token.kind if token.kind == "variable" else token.text for token in ahead] == shape:
                self._at += len(shape)
                return [token.text for token in ahead[::2][:names]]
        return []

    def pipeline(self) -> _Pipeline:
        commands = [self._command()]
        while self.peek() == "|":
            self.take()
            commands.append(self._command())
        return _Pipeline(commands)

    def _command(self) -> list[Any]:
        words = []
        while not self.ended() and self.peek() not in {"|", ")"}:
            words.append(self._operand())
        if not words:
            raise _fail("missing value for command")
        return words

    def _operand(self) -> Any:
        token = self.take()
        if token.text == "(":
            inner = self.pipeline()
            if self.ended() or self.take().text != ")":
                raise _fail("unclosed left paren")
            return inner
        if token.kind == "string":
            return _Literal(token.text[1:-1] if token.text[0] == "`" else json.loads(token.text))
        if token.kind == "number":
            return _Literal(float(token.text) if "." in token.text else int(token.text))
        if token.kind == "word":
            if token.text in {"true", "false", "nil"}:
                return _Literal({"true": True, "false": False, "nil": None}[token.text])
            if token.text not in FUNCTIONS:
                raise _fail(f'function "{token.text}" not defined')
            return _Function(token.text)
        if token.text == "." or token.kind in {"field", "variable"}:
            return _Path(token.text)
        raise _fail(f'unexpected "{token.text}" in operand')


def _tokens(source: str) -> list[_Token]:
    found = []
    at = 0
    source = source.strip()
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None or match.lastgroup is None:
            raise _fail(f'unexpected "{source[at:].strip()[:10]}" in command')
        found.append(_Token(match.lastgroup, match.group(match.lastgroup)))
        at = match.end()
    return found


@dataclass(frozen=True)
class _Literal:
    value: Any

    def evaluate(self, scope: Scope) -> Any:  # noqa: ARG002
        return self.value


@dataclass(frozen=True)
class _Path:
    text: str

    def evaluate(self, scope: Scope) -> Any:
        head, *names = self.text.split(".")
        if head and head not in scope:
            raise _fail(f'undefined variable "{head}"')
        value = scope[head] if head else scope["."]
        for name in filter(None, names):
            if isinstance(value, Mapping):
                value = value.get(name, NO_VALUE)
            elif value is not NO_VALUE and value is not None:
                raise TemplateError(f"template: :1: can't evaluate field {name} in type {_type(value)}")
        return value


@dataclass(frozen=True)
class _Function:
    name: str

    def evaluate(self, scope: Scope) -> Any:  # noqa: ARG002
        return _call(self.name, [])


@dataclass(frozen=True)
class _Pipeline:
    commands: list[list[Any]]

    def evaluate(self, scope: Scope) -> Any:
        value: list[Any] = []
        for head, *rest in self.commands:
            arguments = [operand.evaluate(scope) for operand in rest] + value
            if isinstance(head, _Function):
                value = [_call(head.name, arguments)]
            elif arguments:
                raise TemplateError(f"template: :1: can't give argument to non-function {getattr(head, 'text', head)}")
            else:
                value = [head.evaluate(scope)]
        return value[0]


# -- nodes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Text:
    text: str

    def render(self, scope: Scope, out: list[str]) -> None:  # noqa: ARG002
        out.append(self.text)


@dataclass(frozen=True)
class _Output:
    declared: list[str]
    pipeline: _Pipeline

    def render(self, scope: Scope, out: list[str]) -> None:
        value = self.pipeline.evaluate(scope)
        if self.declared:
            scope[self.declared[0]] = value
        else:
            out.append(to_text(value))


@dataclass(frozen=True)
class _Branch:
    word: str
    declared: list[str]
    pipeline: _Pipeline
    body: Template
    otherwise: Template

    def render(self, scope: Scope, out: list[str]) -> None:
        value = self.pipeline.evaluate(scope)
        if not _true(value):
            self.otherwise.run(dict(scope), out)
        elif self.word == "range":
            self._each(value, scope, out)
        else:
            inner = dict(scope)
            inner.update(dict.fromkeys(self.declared, value))
            if self.word == "with":
                inner["."] = value
            self.body.run(inner, out)

    def _each(self, value: Any, scope: Scope, out: list[str]) -> None:
        if isinstance(value, Mapping):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            pairs = list(enumerate(value))
        else:
            raise TemplateError(f"template: :1: range can't iterate over {to_text(value)}")
        for key, element in pairs:
            inner = {**scope, ".": element}
            inner.update(
                zip(self.declared, (key, element)[-len(self.declared) :], strict=True) if self.declared else ()
            )
            self.body.run(inner, out)


class Template:
    """A parsed template."""

    def __init__(self, nodes: list[Any]) -> None:
        self._nodes = nodes

    def render(self, data: Any) -> str:
        """The text for `data`. Raises `TemplateError` if it cannot be executed."""
        out: list[str] = []
        self.run({".": data, "$": data}, out)
        return "".join(out)

    def run(self, scope: Scope, out: list[str]) -> None:
        """Append the text to `out`."""
        for node in self._nodes:
            node.render(scope, out)


def parse(source: str) -> Template:
    """Parse a template. Raises `TemplateError` with Go's words."""
    pieces = _split(source)
    template, stopped = _parse_list(pieces)
    if stopped:
        raise _fail(f"unexpected {{{{{stopped}}}}}")
    return template


def _split(source: str) -> list[tuple[bool, str]]:
    """Text and actions in turn, last first; white space is trimmed where the actions say so."""
    pieces: list[tuple[bool, str]] = []
    at = 0
    trim = False
    for match in _ACTION.finditer(source):
        text = source[at : match.start()]
        text = text.lstrip() if trim else text
        pieces.append((False, text.rstrip() if match.group(1) else text))
        if not match.group(2).strip().startswith("/*"):
            pieces.append((True, match.group(2).strip()))
        trim = bool(match.group(3))
        at = match.end()
    rest = source[at:]
    if "{{" in rest:
        raise _fail("unclosed action")
    pieces.append((False, rest.lstrip() if trim else rest))
    return pieces[::-1]


def _parse_list(pieces: list[tuple[bool, str]]) -> tuple[Template, str]:
    """Nodes up to an ``end`` or ``else`` that is not theirs, which is returned with them."""
    nodes: list[Any] = []
    while pieces:
        action, text = pieces.pop()
        if not action:
            nodes.append(_Text(text))
            continue
        word = text.split(None, 1)[0] if text else ""
        if word in {"end", "else"}:
            return Template(nodes), text
        if word in {"if", "range", "with"}:
            nodes.append(_parse_branch(word, text[len(word) :], pieces))
        else:
            nodes.append(_Output(*_parse_pipeline(text)))
    return Template(nodes), ""


def _parse_branch(word: str, condition: str, pieces: list[tuple[bool, str]]) -> _Branch:
    declared, pipeline = _parse_pipeline(condition)
    body, stopped = _parse_list(pieces)
    otherwise = Template([])
    if stopped.split() == ["else"]:
        otherwise, stopped = _parse_list(pieces)
    elif stopped.startswith("else"):
        inner, _, rest = stopped[4:].strip().partition(" ")
        if inner not in {"if", "with"}:
            raise _fail(f"unexpected {{{{{stopped}}}}}")
        return _Branch(word, declared, pipeline, body, Template([_parse_branch(inner, rest, pieces)]))
    if stopped != "end":
        raise _fail("unexpected EOF")
    return _Branch(word, declared, pipeline, body, otherwise)


def _parse_pipeline(text: str) -> tuple[list[str], _Pipeline]:
    expressions = _Expressions(text)
    declared = expressions.declaration()
    pipeline = expressions.pipeline()
    if not expressions.ended():
        raise _fail(f'unexpected "{expressions.peek()}" in command')
    return declared, pipeline


# -- values --------------------------------------------------------------------------------------------------------


def to_text(value: Any) -> str:
    """A value as Go prints it with %v."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{to_text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(to_text(entry) for entry in value) + "]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)


def _true(value: Any) -> bool:
    return bool(value)


def _type(value: Any) -> str:
    names = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}"}
    return names.get(type(value), type(value).__name__)


def _call(name: str, arguments: list[Any]) -> Any:
    try:
        return FUNCTIONS[name](*arguments)
    except TemplateError:
        raise
    except (TypeError, ValueError, LookupError) as error:
        raise TemplateError(f"template: :1: error calling {name}: {error}") from error


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, NO_VALUE)
        elif isinstance(value, Sequence) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise TemplateError(f"template: :1: error calling index: index out of range: {key}")
            value = value[key]
        else:
            raise TemplateError(f"template: :1: error calling index: can't index item of type {_type(value)}")
    return value


_VERB = re.compile(r"%([-+# 0]*[0-9]*(?:\.[0-9]+)?)([a-zA-Z%])")


def _printf(form: str, *values: Any) -> str:
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        return _verb(flags, verb, rest.pop(0))

    text = _VERB.sub(one, form)
    return text + "".join(f"%!(EXTRA {_type(value)}={to_text(value)})" for value in rest[:1])


def _verb(flags: str, verb: str, value: Any) -> str:
    if verb in "sv":
        return f"%{flags.replace('#', '').replace('0', '') if not flags.strip('0') else flags}s" % to_text(value)
    if verb == "q":
        return f"%{flags}s" % json.dumps(to_text(value))
    if verb == "t" and isinstance(value, bool):
        return to_text(value)
    if verb in "dxXofeEgGc" and isinstance(value, int | float) and not isinstance(value, bool):
        return f"%{flags}{verb}" % value
    return f"%!{verb}({_type(value)}={to_text(value)})"


def _and(first: Any, *rest: Any) -> Any:
    value = first
    for other in rest:
        if not _true(value):
            break
        value = other
    return value


def _or(first: Any, *rest: Any) -> Any:
    value = first
    for other in rest:
        if _true(value):
            break
        value = other
    return value


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "json": lambda value: json.dumps(None if value is NO_VALUE else value, separators=(",", ":")),
    "prettyjson": lambda value: json.dumps(None if value is NO_VALUE else value, indent=4),
    "printf": _printf,
    "print": lambda *values: "".join(to_text(value) for value in values),
    "println": lambda *values: " ".join(to_text(value) for value in values) + "\n",
    "index": _index,
    "len": len,
    "join": lambda values, separator: separator.join(to_text(value) for value in values),
    "split": lambda value, separator: value.split(separator),
    "lower": lambda value: value.lower(),
    "upper": lambda value: value.upper(),
    "title": lambda value: value.title(),
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "and": _and,
    "or": _or,
    "not": lambda value: not _true(value),
}
