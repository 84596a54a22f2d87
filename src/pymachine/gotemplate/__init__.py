"""Go's text/template for ``--format``: what docker-machine's users have in their scripts.

Written after the documentation of Go's packages text/template and fmt, and held against what Go itself prints: golden
outputs in the unit tests, and a Go program in an integration test. Values are JSON, or Go's structs and named types
(`pymachine.gotemplate.types`). Left out are complex numbers and channels.

Functions beside Go's own: json, prettyjson (docker-machine's), join, split, lower, upper, title (docker's). One thing
differs on purpose: whole numbers in JSON stay whole. Go takes every number in JSON for a fraction, prints 1000000 as
1e+06, and finds ``eq .Driver.CPU 2`` and ``printf "%d"`` wrong.
"""

from __future__ import annotations

from pymachine.gotemplate.errors import TemplateError
from pymachine.gotemplate.nodes import Template
from pymachine.gotemplate.parser import parse

__all__ = ["Template", "TemplateError", "parse"]
