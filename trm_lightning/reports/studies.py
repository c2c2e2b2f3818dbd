"""A study's part of a comparison's report: its first numbers, its picture and its table."""

from dataclasses import replace

from trm_lightning.reports.document import Number, Picture, Section
from trm_lightning.reports.study_figures import PICTURES, Styles, Values
from trm_lightning.studies.study_table import (
    exponent_cell,
    interval_cell,
    ratio_cell,
    study_table,
    study_text,
)


def study_section(study: Values, styles: Styles) -> Section:
    """Return a study's section; ``styles`` are of its series."""
    table, kind, pictures = study_table(study), study["kind"], []
    if study["points"]:
        caption, draw = PICTURES[kind]
        pictures = [Picture(kind, caption, draw(study, styles), wide=kind == "frontier")]
    return Section(table.title, study_text(study), pictures, [replace(table, title="")])


def study_numbers(study: Values) -> list[Number]:
    """Return the study's answers, one for each entry or series that has one."""
    if study["kind"] not in ("frontier", "recurrence"):
        return []
    base = study["baseline_series"]
    if study["kind"] == "frontier":
        return [
            Number(
                f"{point['name']} equals",
                f"{ratio_cell(point['ratios']['parameters'])} ×",
                f"its parameters in {base}",
            )
            for point in study["points"]
            if point["ratios"] and point["ratios"]["parameters"]
        ]
    return [
        Number(f"φ of {found['series']}", exponent_cell(found["phi"]) + interval_cell(found), "")
        for found in study["exponents"]
        if found["phi"] is not None
    ]
