"""Pages that need no network and no script: one skeleton, one look, filled in with autoescape."""

import re
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dpo_video.core import charts
from dpo_video.core.names import PACKAGE


def render_page(template: str, **values: Any) -> str:
    """Return a page as text; `template` is a file of the package, e.g. `pair/audit.html.jinja`.

    It extends `core/page.html.jinja`, whose macros draw charts, tables and the bars of intervals.
    """
    return _environment().get_template(template).render(**values)


def unbroken_brackets(text: str) -> Markup:
    """Return escaped text whose bracketed parts, `[40.0, 60.0]`, stay on one line."""
    pieces = re.split(r"(\[[^\]]*\])", text)
    return Markup("").join(
        Markup('<span class="unbroken">{}</span>').format(piece) if index % 2 else piece
        for index, piece in enumerate(pieces)
    )


def render_document(template: str, **values: Any) -> str:
    """Return a Markdown file as text; `template` is a file of the package.

    Its filter `cell` makes a text fit for a table's cell: one line, and no column of its own.
    """
    return _document_environment().get_template(template).render(**values)


def _package_templates(*, autoescape: bool) -> Environment:
    return Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@cache
def _document_environment() -> Environment:
    environment = _package_templates(autoescape=False)
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    return environment


@cache
def _environment() -> Environment:
    environment = _package_templates(autoescape=True)
    environment.filters["unbroken_brackets"] = unbroken_brackets
    environment.globals["geometry"] = {
        name: getattr(charts, name)
        for name in ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "TOP", "BOTTOM", "BAR_WIDTH")
    }
    return environment
