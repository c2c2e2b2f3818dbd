"""Reports as files: one HTML page that needs nothing else, Markdown, and the figures."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from trm_lightning.files import make_folder, write_bytes, write_text
from trm_lightning.reports.document import Listing, Picture, Report
from trm_lightning.reports.plots import as_element, save_figure
from trm_lightning.runs.stored_text import read_bytes
from trm_lightning.studies.cells import code_span, escaped, markdown_table

FIGURES = "figures"


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``figures/`` into ``folder``.

    Returns:
        The two pages.
    """
    make_folder(folder / FIGURES)
    elements = {
        picture.stem: _save_picture(picture, folder / FIGURES / picture.stem)
        for section in report.sections
        for picture in section.pictures
    }
    pages = {"report.html": render_html(report, elements), "report.md": render_markdown(report)}
    for name, text in pages.items():
        write_text(folder / name, text)
    return [folder / name for name in pages]


def render_html(report: Report, elements: Mapping[str, Markup]) -> str:
    """Return the page: styles and figures are in it, and nothing is loaded from elsewhere.

    Args:
        report: what to show; its text is escaped.
        elements: the HTML of each picture, by its ``stem``.
    """
    template = templates("trm_lightning.reports", autoescape=True).get_template("report.html.j2")
    return template.render(report=report, elements=elements)


def render_markdown(report: Report) -> str:
    """Return the same as Markdown, with the figures beside it."""
    template = templates("trm_lightning.reports", autoescape=False).get_template("report.md.j2")
    return template.render(report=report).rstrip() + "\n"


def templates(package: str, autoescape: bool) -> Environment:
    """Return the templates of a package, with filters that keep text from becoming markup.

    Args:
        package: has a folder ``templates``.
        autoescape: for HTML; in Markdown each value names its filter.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "escaped": lambda text: escaped(str(text)),
        "code": code_span,
        "table": markdown_table,
        "fenced": _fenced,
    }
    return environment


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
        file = picture.source.with_suffix(suffix)
        if file.is_file():
            write_bytes(stem.with_suffix(suffix), read_bytes(file))
    encoded = base64.b64encode(read_bytes(picture.source.with_suffix(".svg"))).decode()
    return Markup('<img alt="" src="data:image/svg+xml;base64,{}">').format(encoded)
