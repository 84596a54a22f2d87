"""From a template's source to what can be rendered."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pymachine.gotemplate import lexer, nodes
from pymachine.gotemplate.errors import parsing
from pymachine.gotemplate.functions import FUNCTIONS
from pymachine.gotemplate.lexer import Piece, Token
from pymachine.gotemplate.nodes import Command, Operand, Pipeline, Template

_CONSTANTS = {"true": True, "false": False, "nil": None}
_BRANCHES = ("if", "range", "with")
_DEEPEST = 100


def parse(source: str) -> Template:
    """Parse a template. Raises `TemplateError` with Go's words."""
    parser = _Parser(source)
    body, stopped = parser.body()
    if stopped:
        raise parsing(f"unexpected {{{{{stopped.text.strip()}}}}}", stopped.line)
    return Template(source, body, parser.defined)


class _Parser:
    def __init__(self, source: str) -> None:
        self._pieces: Iterator[Piece] = lexer.pieces(source)
        self.defined: dict[str, list[nodes.Node]] = {}
        self._scopes: list[list[str]] = [["$"]]
        self._loops = 0
        self._depth = 0

    def body(self) -> tuple[list[nodes.Node], Piece | None]:
        """Nodes up to an ``end`` or ``else`` that is not theirs, which is returned with them."""
        found: list[nodes.Node] = []
        for piece in self._pieces:
            if not piece.action:
                if piece.text:
                    found.append(nodes.Text(piece.text))
                continue
            words = lexer.tokens(piece.text, piece.line, piece.at)
            keyword = words[0].text if words and words[0].kind == "word" else ""
            if keyword in {"end", "else"}:
                return found, piece
            node = self._action(keyword, words, piece)
            if node is not None:
                found.append(node)
        return found, None

    def _action(self, keyword: str, words: list[Token], piece: Piece) -> nodes.Node | None:
        if keyword in _BRANCHES:
            return self._branch(keyword, words[1:], piece)
        if keyword in {"break", "continue"}:
            if len(words) != 1:
                raise parsing(f"unexpected {words[1].text} in {{{{{keyword}}}}}", piece.line)
            if not self._loops:
                raise parsing(f"{{{{{keyword}}}}} outside {{{{range}}}}", piece.line)
            return nodes.Jump(keyword)
        if keyword == "define":
            name, rest = self._template_name(words, piece)
            if rest:
                raise parsing("unexpected words in define clause", piece.line)
            self._define(name, piece)
            return None
        if keyword in {"template", "block"}:
            name, rest = self._template_name(words, piece)
            argument = _Expressions(rest, piece.line, self._scopes).whole() if rest else None
            shown = "" if argument is None else f" {argument.mark.text}"
            if keyword == "block":
                self._define(name, piece)
            return nodes.Call(name, argument, nodes.Mark(words[1].at, f"{{{{template {words[1].text}{shown}}}}}"))
        expressions = _Expressions(words, piece.line, self._scopes)
        declared, assigned = expressions.declaration(most=1)
        pipeline = expressions.whole()
        return nodes.Output(self._declare(declared), pipeline, assigned)

    def _template_name(self, words: list[Token], piece: Piece) -> tuple[str, list[Token]]:
        if len(words) < 2 or words[1].kind != "string":
            raise parsing(f"unexpected words in {words[0].text} clause", piece.line)
        return lexer.string(words[1].text, piece.line), words[2:]

    def _define(self, name: str, piece: Piece) -> None:
        scopes, loops = self._scopes, self._loops
        self._scopes, self._loops = [["$"]], 0
        with _nested(self, piece):
            self.defined[name], stopped = self.body()
        if stopped is None or stopped.text.strip() != "end":
            raise parsing("unexpected EOF", piece.line)
        self._scopes, self._loops = scopes, loops

    def _branch(self, keyword: str, words: list[Token], piece: Piece) -> nodes.Node:
        self._scopes.append([])
        expressions = _Expressions(words, piece.line, self._scopes, what=keyword)
        declared, assigned = expressions.declaration(most=2 if keyword == "range" else 1)
        pipeline = expressions.whole()
        self._declare(declared)
        with _nested(self, piece):
            self._loops += keyword == "range"
            body, stopped = self.body()
            self._loops -= keyword == "range"
            otherwise, stopped = self._else(keyword, stopped)
        if stopped is None or stopped.text.strip() != "end":
            raise parsing("unexpected EOF", piece.line)
        self._scopes.pop()
        return nodes.Branch(keyword, declared, assigned, pipeline, body, otherwise)

    def _else(self, keyword: str, stopped: Piece | None) -> tuple[list[nodes.Node], Piece | None]:
        """What is behind an ``else``, and what ended it; an ``else if`` ends where the whole ends."""
        if stopped is None or stopped.text.strip() == "end":
            return [], stopped
        words = lexer.tokens(stopped.text, stopped.line, stopped.at)[1:]
        if not words:
            return self.body()
        if keyword == words[0].text and keyword in {"if", "with"}:
            return [self._branch(keyword, words[1:], stopped)], Piece("end", stopped.line, action=True)
        raise parsing(f"unexpected <{words[0].text}> in else", stopped.line)

    def _declare(self, names: list[str]) -> list[str]:
        self._scopes[-1] += names
        return names


class _nested:  # noqa: N801 (used as a function)
    """Guards against templates that are nested so deeply that Python's stack would end."""

    def __init__(self, parser: _Parser, piece: Piece) -> None:
        self._parser, self._piece = parser, piece

    def __enter__(self) -> None:
        self._parser._depth += 1  # noqa: SLF001 (a part of it)
        if self._parser._depth > _DEEPEST:  # noqa: SLF001
            raise parsing("nested too deeply", self._piece.line)

    def __exit__(self, *_: object) -> None:
        self._parser._depth -= 1  # noqa: SLF001


class _Expressions:
    """Reads the pipeline of one action."""

    def __init__(self, words: list[Token], line: int, scopes: list[list[str]], *, what: str = "command") -> None:
        self._words = words
        self._line = line
        self._scopes = scopes
        self._what = what
        self._at = 0
        self._depth = 0
        self._begin = self._here()
        self._declared = ""

    def declaration(self, *, most: int) -> tuple[list[str], bool]:
        """The variables in ``$x :=``, ``$x =`` or ``$i, $e :=``, if that stands here; and whether it was ``=``."""
        names: list[str] = []
        at = self._at
        while at < len(self._words) and self._words[at].kind == "variable":
            names.append(self._words[at].text)
            following = self._words[at + 1].text if at + 1 < len(self._words) else ""
            if following in {":=", "="}:
                if following == "=":
                    for name in names:
                        self._check_variable(name)
                self._at = at + 2
                self._declared = f"{', '.join(names)} := "
                return names, following == "="
            if following != "," or len(names) >= most:
                break
            at += 2
        if len(names) > 1 or (names and at + 1 < len(self._words) and self._words[at + 1].text == ","):
            raise parsing("too many declarations in command", self._line)
        return [], False

    def whole(self) -> Pipeline:
        """A pipeline that takes all that is left."""
        pipeline = self._pipeline()
        if self._at < len(self._words):
            raise parsing(f'unexpected "{self._words[self._at].text}" in command', self._line)
        return pipeline

    def _peek(self) -> str:
        token = self._words[self._at] if self._at < len(self._words) else None
        return token.text if token is not None and token.kind == "sign" else ""

    def _pipeline(self) -> Pipeline:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise parsing("nested too deeply", self._line)
        begin = self._begin if self._depth == 1 else self._here()
        commands = [self._command()]
        while self._peek() == "|":
            self._at += 1
            commands.append(self._command())
            if isinstance(commands[-1].words[0], nodes.Constant | nodes.Dot):
                raise parsing(f"non executable command in pipeline stage {len(commands)}", self._line)
        self._depth -= 1
        text = " | ".join(command.mark.text for command in commands)
        return Pipeline(tuple(commands), nodes.Mark(begin, self._declared + text if self._depth == 0 else text))

    def _here(self) -> int:
        """Where the next token begins in the source."""
        return self._words[min(self._at, len(self._words) - 1)].at if self._words else 0

    def _command(self) -> Command:
        words: list[Operand] = []
        begin = self._here()
        while self._at < len(self._words) and self._peek() not in {"|", ")"}:
            if words and not self._words[self._at].spaced and self._words[self._at].text != "(":
                raise parsing(f'unexpected "{self._words[self._at].text}" in operand', self._line)
            words.append(self._operand())
        if not words:
            raise parsing(f"missing value for {self._what}", self._line)
        shown = (f"({word.mark.text})" if isinstance(word, Pipeline) else word.mark.text for word in words)
        return Command(tuple(words), nodes.Mark(begin, " ".join(shown)))

    def _operand(self) -> Operand:
        token = self._words[self._at]
        self._at += 1
        operand = self._term(token)
        names: list[str] = []
        begin = self._here()
        while (
            self._at < len(self._words) and self._words[self._at].kind == "field" and not self._words[self._at].spaced
        ):
            names.append(self._words[self._at].text[1:])
            self._at += 1
        if not names:
            return operand
        if isinstance(operand, nodes.Constant | nodes.Dot):
            raise parsing(f"unexpected . after term {token.text!r}", self._line)
        return self._with_fields(operand, tuple(names), begin)

    def _with_fields(self, operand: Operand, names: tuple[str, ...], begin: int) -> Operand:
        """`operand` with fields behind it, which begin there in the source."""
        shown = f"({operand.mark.text})" if isinstance(operand, Pipeline) else operand.mark.text
        mark = nodes.Mark(begin, ".".join((shown, *names)))
        if isinstance(operand, nodes.Fields):
            return nodes.Fields((*operand.names, *names), mark)
        if isinstance(operand, nodes.Variable):
            return nodes.Variable(operand.name, names, mark)
        return nodes.Chain(operand, names, mark)

    def _term(self, token: Token) -> Operand:
        mark = nodes.Mark(token.at, token.text)
        readers: dict[str, Callable[[nodes.Mark], Operand]] = {
            "char": lambda mark: nodes.Constant(lexer.number(mark.text, self._line), mark),
            "field": lambda mark: nodes.Fields((mark.text[1:],), mark),
            "number": lambda mark: nodes.Constant(lexer.number(mark.text, self._line), mark),
            "sign": self._sign,
            "string": lambda mark: nodes.Constant(lexer.string(mark.text, self._line), mark),
            "variable": self._variable,
            "word": self._word,
        }
        return readers[token.kind](mark)

    def _sign(self, mark: nodes.Mark) -> Operand:
        if mark.text == ".":
            return nodes.Dot(mark)
        if mark.text != "(":
            raise parsing(f'unexpected "{mark.text}" in operand', self._line)
        inner = self._pipeline()
        if self._peek() != ")":
            raise parsing("unclosed left paren", self._line)
        self._at += 1
        return inner

    def _variable(self, mark: nodes.Mark) -> Operand:
        self._check_variable(mark.text)
        return nodes.Variable(mark.text, (), mark)

    def _word(self, mark: nodes.Mark) -> Operand:
        if mark.text in _CONSTANTS:
            return nodes.Constant(_CONSTANTS[mark.text], mark)
        if mark.text not in FUNCTIONS:
            raise parsing(f'function "{mark.text}" not defined', self._line)
        return nodes.Function(mark.text, mark)

    def _check_variable(self, name: str) -> None:
        if not any(name in scope for scope in self._scopes):
            raise parsing(f'undefined variable "{name}"', self._line)
