"""Reports as files: one HTML page that needs nothing else, Markdown, and the figures."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from trm_lightning.files import write_atomically
from trm_lightning.reports.document import Picture, Report
from trm_lightning.reports.plots import as_element, save_figure

FIGURES = "figures"


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``figures/`` into ``folder``.

    Returns:
        The two pages.
    """
    (folder / FIGURES).mkdir(exist_ok=True)
    svgs = {
        picture.name: _save_picture(picture, folder / FIGURES / picture.name)
        for section in report.sections
        for picture in section.pictures
    }
    pages = {"report.html": render_html(report, svgs), "report.md": render_markdown(report)}
    for name, text in pages.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


def render_html(report: Report, svgs: Mapping[str, str]) -> str:
    """Return the page: styles and figures are in it, and nothing is loaded from elsewhere.

    Args:
        report: what to show.
        svgs: content of each picture's SVG file, by its name; our own, hence not escaped.
    """
    elements = {name: Markup(as_element(svg, name)) for name, svg in svgs.items()}
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
    environment.filters["cell"] = _cell
    return environment


def _cell(value: Any) -> str:
    """Return text that cannot end a Markdown table's cell."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _save_picture(picture: Picture, stem: Path) -> str:
    """Draw or copy a picture's files; return the SVG."""
    if isinstance(picture.source, Figure):
        return save_figure(picture.source, stem)
    for suffix in (".png", ".svg"):
        with write_atomically(stem.with_name(stem.name + suffix)) as temporary:
            shutil.copyfile(picture.source.with_suffix(suffix), temporary)
    return stem.with_suffix(".svg").read_text(encoding="utf-8")
