"""Rendering of a report into one HTML file that needs no other file, no network and no script."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from voxshard.reporting import summary
from voxshard.reporting.report_data import ReportData
from voxshard.reporting.sections import build


def render(data: ReportData) -> str:
    """Render a report as HTML; the same data gives the same text. Every text in `data` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("voxshard.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["block"] = lambda value, name: type(value).__name__ == name
    context: dict[str, Any] = {
        "data": data,
        "sections": build(data),
        "tiles": summary.tiles(data),
        "summary": summary.in_words(data),
        "css": Markup(resources.files("voxshard.reporting").joinpath("templates/report.css").read_text()),
        "svg": Markup,
    }
    page: str = environment.get_template("report.html.j2").render(context)
    return page
