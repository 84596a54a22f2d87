"""Go's text/template for ``--format``, which docker-machine's users have in their scripts.

Written from the documentation of Go's packages text/template and fmt, and compared with what Go itself prints: the
unit tests have golden outputs, and an integration test runs a Go program. Values are JSON, or Go's structs and named
types (`pymachine.gotemplate.types`). Complex numbers and channels are not supported.

Functions in addition to Go's own: json and prettyjson (docker-machine's), join, split, lower, upper and title
(docker's). One deviation is deliberate: whole numbers in JSON stay whole. Go reads every number in JSON as a float64,
prints 1000000 as 1e+06, and rejects ``eq .Driver.CPU 2`` and ``printf "%d"``.
"""

from __future__ import annotations

from pymachine.gotemplate.errors import FormatError
from pymachine.gotemplate.nodes import Template
from pymachine.gotemplate.parser import parse

__all__ = ["FormatError", "Template", "parse"]
