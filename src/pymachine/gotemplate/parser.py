"""Parse a template's source into nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pymachine.gotemplate import lexer, nodes
from pymachine.gotemplate.errors import parse_error
from pymachine.gotemplate.functions import FUNCTIONS
from pymachine.gotemplate.lexer import Piece, Token
from pymachine.gotemplate.nodes import Command, Operand, Pipeline, Template

_CONSTANTS = {"true": True, "false": False, "nil": None}
_BRANCHES = ("if", "range", "with")
_MAX_DEPTH = 100


def parse(source: str) -> Template:
    """Parse a template. Raises `FormatError` with Go's message."""
    parser = _Parser(source)
    body, terminator = parser.body()
    if terminator:
        raise parse_error(f"unexpected {{{{{terminator.text.strip()}}}}}", terminator.line)
    return Template(source, body, parser.defined)


class _Parser:
    def __init__(self, source: str) -> None:
        self._pieces: Iterator[Piece] = lexer.split_source(source)
        self.defined: dict[str, list[nodes.Node]] = {}
        self._scopes: list[list[str]] = [["$"]]
        self._loops = 0
        self._depth = 0

    def body(self) -> tuple[list[nodes.Node], Piece | None]:
        """Return the nodes up to the ``end`` or ``else`` of the enclosing block, and that piece (None at the end)."""
        found: list[nodes.Node] = []
        for piece in self._pieces:
            if not piece.action:
                if piece.text:
                    found.append(nodes.Text(piece.text))
                continue
            words = lexer.tokens(piece.text, piece.line, piece.offset)
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
                raise parse_error(f"unexpected {words[1].text} in {{{{{keyword}}}}}", piece.line)
            if not self._loops:
                raise parse_error(f"{{{{{keyword}}}}} outside {{{{range}}}}", piece.line)
            return nodes.Jump(keyword)
        if keyword == "define":
            name, rest = self._template_name(words, piece)
            if rest:
                raise parse_error("unexpected words in define clause", piece.line)
            self._define(name, piece)
            return None
        if keyword in {"template", "block"}:
            name, rest = self._template_name(words, piece)
            argument = _PipelineReader(rest, piece.line, self._scopes).remaining_pipeline() if rest else None
            shown = "" if argument is None else f" {argument.mark.text}"
            if keyword == "block":
                self._define(name, piece)
            return nodes.Call(name, argument, nodes.Mark(words[1].offset, f"{{{{template {words[1].text}{shown}}}}}"))
        reader = _PipelineReader(words, piece.line, self._scopes)
        declared, assigned = reader.declaration(max_names=1)
        pipeline = reader.remaining_pipeline()
        return nodes.Output(self._declare(declared), pipeline, assigned)

    def _template_name(self, words: list[Token], piece: Piece) -> tuple[str, list[Token]]:
        if len(words) < 2 or words[1].kind != "string":
            raise parse_error(f"unexpected words in {words[0].text} clause", piece.line)
        return lexer.string(words[1].text, piece.line), words[2:]

    def _define(self, name: str, piece: Piece) -> None:
        scopes, loops = self._scopes, self._loops
        self._scopes, self._loops = [["$"]], 0
        with _NestingGuard(self, piece):
            self.defined[name], terminator = self.body()
        if terminator is None or terminator.text.strip() != "end":
            raise parse_error("unexpected EOF", piece.line)
        self._scopes, self._loops = scopes, loops

    def _branch(self, keyword: str, words: list[Token], piece: Piece) -> nodes.Node:
        self._scopes.append([])
        reader = _PipelineReader(words, piece.line, self._scopes, what=keyword)
        declared, assigned = reader.declaration(max_names=2 if keyword == "range" else 1)
        pipeline = reader.remaining_pipeline()
        self._declare(declared)
        with _NestingGuard(self, piece):
            self._loops += keyword == "range"
            body, terminator = self.body()
            self._loops -= keyword == "range"
            else_body, terminator = self._else(keyword, terminator)
        if terminator is None or terminator.text.strip() != "end":
            raise parse_error("unexpected EOF", piece.line)
        self._scopes.pop()
        return nodes.Branch(keyword, declared, assigned, pipeline, body, else_body)

    def _else(self, keyword: str, terminator: Piece | None) -> tuple[list[nodes.Node], Piece | None]:
        """Return the nodes after an ``else``, and the piece that ended them.

        An ``else if`` shares the ``end`` of the outer ``if``.
        """
        if terminator is None or terminator.text.strip() == "end":
            return [], terminator
        words = lexer.tokens(terminator.text, terminator.line, terminator.offset)[1:]
        if not words:
            return self.body()
        if keyword == words[0].text and keyword in {"if", "with"}:
            return [self._branch(keyword, words[1:], terminator)], Piece("end", terminator.line, action=True)
        raise parse_error(f"unexpected <{words[0].text}> in else", terminator.line)

    def _declare(self, names: list[str]) -> list[str]:
        self._scopes[-1] += names
        return names


class _NestingGuard:
    """Refuse templates nested so deeply that Python's stack would overflow."""

    def __init__(self, parser: _Parser, piece: Piece) -> None:
        self._parser, self._piece = parser, piece

    def __enter__(self) -> None:
        self._parser._depth += 1  # noqa: SLF001 (a part of the parser)
        if self._parser._depth > _MAX_DEPTH:  # noqa: SLF001
            raise parse_error("nested too deeply", self._piece.line)

    def __exit__(self, *_: object) -> None:
        self._parser._depth -= 1  # noqa: SLF001


class _PipelineReader:
    """Parses the pipeline of one action."""

    def __init__(self, words: list[Token], line: int, scopes: list[list[str]], *, what: str = "command") -> None:
        self._tokens = words
        self._line = line
        self._scopes = scopes
        self._what = what
        self._position = 0
        self._depth = 0
        self._begin = self._here()
        self._declared = ""

    def declaration(self, *, max_names: int) -> tuple[list[str], bool]:
        """Parse ``$x :=``, ``$x =`` or ``$i, $e :=`` if it comes next.

        Returns the variables' names, and whether the sign was ``=``.
        """
        names: list[str] = []
        at = self._position
        while at < len(self._tokens) and self._tokens[at].kind == "variable":
            names.append(self._tokens[at].text)
            following = self._tokens[at + 1].text if at + 1 < len(self._tokens) else ""
            if following in {":=", "="}:
                if following == "=":
                    for name in names:
                        self._check_variable(name)
                self._position = at + 2
                self._declared = f"{', '.join(names)} := "
                return names, following == "="
            if following != "," or len(names) >= max_names:
                break
            at += 2
        if len(names) > 1 or (names and at + 1 < len(self._tokens) and self._tokens[at + 1].text == ","):
            raise parse_error("too many declarations in command", self._line)
        return [], False

    def remaining_pipeline(self) -> Pipeline:
        """Parse all remaining tokens as a pipeline."""
        pipeline = self._pipeline()
        if self._position < len(self._tokens):
            raise parse_error(f'unexpected "{self._tokens[self._position].text}" in command', self._line)
        return pipeline

    def _peek(self) -> str:
        token = self._tokens[self._position] if self._position < len(self._tokens) else None
        return token.text if token is not None and token.kind == "sign" else ""

    def _pipeline(self) -> Pipeline:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise parse_error("nested too deeply", self._line)
        start = self._begin if self._depth == 1 else self._here()
        commands = [self._command()]
        while self._peek() == "|":
            self._position += 1
            commands.append(self._command())
            if isinstance(commands[-1].words[0], nodes.Constant | nodes.Dot):
                raise parse_error(f"non executable command in pipeline stage {len(commands)}", self._line)
        self._depth -= 1
        text = " | ".join(command.mark.text for command in commands)
        return Pipeline(tuple(commands), nodes.Mark(start, self._declared + text if self._depth == 0 else text))

    def _here(self) -> int:
        """Return where the next token starts in the source."""
        return self._tokens[min(self._position, len(self._tokens) - 1)].offset if self._tokens else 0

    def _command(self) -> Command:
        words: list[Operand] = []
        start = self._here()
        while self._position < len(self._tokens) and self._peek() not in {"|", ")"}:
            if words and not self._tokens[self._position].spaced and self._tokens[self._position].text != "(":
                raise parse_error(f'unexpected "{self._tokens[self._position].text}" in operand', self._line)
            words.append(self._operand())
        if not words:
            raise parse_error(f"missing value for {self._what}", self._line)
        shown = (f"({word.mark.text})" if isinstance(word, Pipeline) else word.mark.text for word in words)
        return Command(tuple(words), nodes.Mark(start, " ".join(shown)))

    def _operand(self) -> Operand:
        token = self._tokens[self._position]
        self._position += 1
        operand = self._term(token)
        names: list[str] = []
        start = self._here()
        while (
            self._position < len(self._tokens)
            and self._tokens[self._position].kind == "field"
            and not self._tokens[self._position].spaced
        ):
            names.append(self._tokens[self._position].text[1:])
            self._position += 1
        if not names:
            return operand
        if isinstance(operand, nodes.Constant | nodes.Dot):
            raise parse_error(f"unexpected . after term {token.text!r}", self._line)
        return self._with_fields(operand, tuple(names), start)

    def _with_fields(self, operand: Operand, names: tuple[str, ...], start: int) -> Operand:
        """Return `operand` with the fields `names` applied to it; `start` is their position in the source."""
        shown = f"({operand.mark.text})" if isinstance(operand, Pipeline) else operand.mark.text
        mark = nodes.Mark(start, ".".join((shown, *names)))
        if isinstance(operand, nodes.Fields):
            return nodes.Fields((*operand.names, *names), mark)
        if isinstance(operand, nodes.Variable):
            return nodes.Variable(operand.name, names, mark)
        return nodes.Chain(operand, names, mark)

    def _term(self, token: Token) -> Operand:
        mark = nodes.Mark(token.offset, token.text)
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
            raise parse_error(f'unexpected "{mark.text}" in operand', self._line)
        inner = self._pipeline()
        if self._peek() != ")":
            raise parse_error("unclosed left paren", self._line)
        self._position += 1
        return inner

    def _variable(self, mark: nodes.Mark) -> Operand:
        self._check_variable(mark.text)
        return nodes.Variable(mark.text, (), mark)

    def _word(self, mark: nodes.Mark) -> Operand:
        if mark.text in _CONSTANTS:
            return nodes.Constant(_CONSTANTS[mark.text], mark)
        if mark.text not in FUNCTIONS:
            raise parse_error(f'function "{mark.text}" not defined', self._line)
        return nodes.Function(mark.text, mark)

    def _check_variable(self, name: str) -> None:
        if not any(name in scope for scope in self._scopes):
            raise parse_error(f'undefined variable "{name}"', self._line)
