"""Pages from templates: self-contained, with one style for all of them."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from metaq.report.tables import text


def html(template: str, **values: Any) -> str:
    """A page from a template of this package, which has the values by their names, and the style as ``style``."""
    loader = jinja2.FunctionLoader(_part)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["text"] = text
    return environment.get_template(template).render(style=Markup(_part("page.css")), **values)


def _part(name: str) -> str:
    return (resources.files("metaq.report") / name).read_text(encoding="utf-8")
