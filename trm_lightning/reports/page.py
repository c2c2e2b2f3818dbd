"""Reports as files: one HTML page that needs nothing else, Markdown, and the figures."""

import base64
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from trm_lightning.files import write_atomically
from trm_lightning.reports.document import Listing, Picture, Report
from trm_lightning.reports.plots import as_element, save_figure
from trm_lightning.studies.cells import markdown_table

FIGURES = "figures"


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``figures/`` into ``folder``.

    Returns:
        The two pages.
    """
    (folder / FIGURES).mkdir(exist_ok=True)
    elements = {
        picture.stem: _save_picture(picture, folder / FIGURES / picture.stem)
        for section in report.sections
        for picture in section.pictures
    }
    pages = {"report.html": render_html(report, elements), "report.md": render_markdown(report)}
    for name, text in pages.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


def render_html(report: Report, elements: Mapping[str, Markup]) -> str:
    """Return the page: styles and figures are in it, and nothing is loaded from elsewhere.

    Args:
        report: what to show; its text is escaped.
        elements: the HTML of each picture, by its ``stem``.
    """
    template = _environment(autoescape=True).get_template("report.html.j2")
    return template.render(report=report, elements=elements)


def render_markdown(report: Report) -> str:
    """Return the same as Markdown, with the figures beside it."""
    text = _environment(autoescape=False).get_template("report.md.j2").render(report=report)
    return text.rstrip() + "\n"


def _environment(autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("trm_lightning.reports"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": _plain, "table": markdown_table, "fenced": _fenced}
    return environment


def _plain(text: Any) -> str:
    """Return text that Markdown cannot take for HTML, on one line."""
    return str(text).replace("<", "&lt;").replace("\n", " ")


def _fenced(listing: Listing) -> str:
    """Return a listing as a block of code that its own text cannot end."""
    longest = max(map(len, re.findall("`+", listing.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{listing.text}\n{fence}"


def _save_picture(picture: Picture, stem: Path) -> Markup:
    """Draw or copy a picture's files; return the HTML that shows it.

    A figure drawn here becomes part of the page; a file that was found is an image, in which
    browsers run no script and load nothing.
    """
    if isinstance(picture.source, Figure):
        return Markup(as_element(save_figure(picture.source, stem), picture.stem))
    for suffix in (".png", ".svg"):
        with write_atomically(stem.with_name(stem.name + suffix)) as temporary:
            shutil.copyfile(picture.source.with_suffix(suffix), temporary)
    encoded = base64.b64encode(stem.with_suffix(".svg").read_bytes()).decode()
    return Markup('<img alt="" src="data:image/svg+xml;base64,{}">').format(encoded)
