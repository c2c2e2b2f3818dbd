"""Reports of folders made here: complete, self-contained, and clear about what a number is."""

import copy
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import Configure
from omegaconf import OmegaConf
from report_folders import ENVIRONMENT, RESULTS, SCORE, make_run

from trm_lightning.analysis import analyze
from trm_lightning.errors import UserError
from trm_lightning.evaluation.rounding import number
from trm_lightning.reports.colors import FAMILIES
from trm_lightning.reports.command import report
from trm_lightning.reports.document import Listing, Number, Picture, Report, Section, Table
from trm_lightning.reports.page import render_html, render_markdown, write_report
from trm_lightning.reports.plots import (
    add_line,
    as_element,
    new_axes,
    save_figure,
    scale_perplexity,
)
from trm_lightning.training.fit import train

CHROMIUM = Path("/usr/bin/chromium")
CHECKS = [
    {"name": "gradient", "passed": True, "detail": "depends on what is before", "position": None},
    {"name": "target_swap", "passed": False, "detail": "moves with the token", "position": 7},
    {"name": "chunk_of_one", "passed": None, "detail": "has no chunks", "position": None},
]  # fmt: skip


def make_report(folder: Path) -> tuple[str, str]:
    report(OmegaConf.create({"path": str(folder), "trust": [], "check": False}))
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


class Page(HTMLParser):
    """Collects ids, addresses and open tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.addresses.append(value or "")


def assert_self_contained(html: str) -> None:
    page = Page(html)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "@import" not in html
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", html))
    assert len(page.ids) == len(set(page.ids)), "ids of different figures clash"
    referred = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html)
    assert {a or b for a, b in referred} <= set(page.ids)


def test_a_run_report_holds_what_was_measured(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a_run")
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("- model=ar\n- data.path=my text.txt\n")
    html, markdown = make_report(run)
    assert_self_contained(html)
    for text in (html, markdown):
        for shown in ("42.12", "41.5", "20.5", "108,480", "1.234", "3.7406", "7.0 %", "abc123",
                      "0123456789abcdef", "stride 32", "entropy floor"):  # fmt: skip
            assert shown.lower() in text.lower(), shown
        assert "likelihood" not in text.lower().replace("likelihoods", "")
    assert "-m trm_lightning.train model=ar 'data.path=my text.txt'" in markdown
    assert "_target_: trm_lightning.models.AR" in markdown
    figures = {f"learning_{x}.{kind}" for x in ("tokens", "seconds") for kind in ("png", "svg")}
    assert {path.name for path in (run / "figures").iterdir()} == figures
    for link in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (run / link).is_file()
    assert html.count("<svg") == 2


def test_a_report_made_twice_is_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    first = make_report(run)
    files = sorted(path.name for path in run.rglob("*"))
    assert make_report(run) == first
    assert sorted(path.name for path in run.rglob("*")) == files  # nothing temporary is left


def cells(markdown: str) -> list[list[str]]:
    """Return the rows of a Markdown text's tables."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_number_that_is_no_likelihood_is_never_called_perplexity(tmp_path: Path) -> None:
    warm = SCORE | {"is_likelihood": False, "perplexity": 1.33, "meaning": "NOT A LIKELIHOOD"}
    final = {"val/warm_start_ppl": warm, "val/ppl_without_answer": SCORE}
    run = make_run(tmp_path / "run", is_likelihood=False, final=final, best={})
    html, markdown = make_report(run)
    assert 'class="warning"' in html and "> **NOT A LIKELIHOOD" in markdown
    (row,) = [line for line in cells(markdown) if any(c.startswith("1.3") for c in line)]
    assert "not a likelihood" in " ".join(row) and "perplexity" not in " ".join(row)
    (row,) = [line for line in cells(markdown) if any(c.startswith("42") for c in line)]
    assert "perplexity without the answer" in " ".join(row)
    drawn = (run / "figures" / "learning_tokens.svg").read_text()
    assert "not a likelihood" in drawn and "perplexity" not in drawn and "floor" not in drawn
    honest, _ = make_report(make_run(tmp_path / "honest"))
    assert 'class="warning"' not in honest


def test_the_audits_verdict_is_told(tmp_path: Path) -> None:
    verdict = {"passed": False, "leaks": True, "failed": {"ppl": ["target_swap"]}}
    run = make_run(tmp_path / "leaky", audit=verdict)
    scores = {"ppl": {"passed": False, "checks": CHECKS}}
    (run / "audit.json").write_text(json.dumps(verdict | {"scores": scores}))
    html, markdown = make_report(run)
    assert "SEES WHAT IT IS SCORED ON" in html and "SEES WHAT IT IS SCORED ON" in markdown
    assert ["target swap", "FAILED", "7", "moves with the token"] in cells(markdown)
    assert ["gradient", "passed", "–"] in [row[:3] for row in cells(markdown)]
    assert "ppl: target swap" in markdown

    passed = {"passed": True, "leaks": False, "failed": {"ppl": []}}
    html, markdown = make_report(make_run(tmp_path / "honest", audit=passed))
    assert "All checks passed" in markdown and 'class="warning"' not in html
    suspicious = passed | {"suspicious": {"ppl": ["training_gap"]}}
    assert (
        "a suspicion is left (training gap)"
        in make_report(make_run(tmp_path / "too good", audit=suspicious))[1]
    )
    assert "switched off" in make_report(make_run(tmp_path / "off", audit=None))[1]
    assert "has not been audited" in make_report(make_run(tmp_path / "older"))[1]


def test_curves_have_the_colour_of_the_recorded_family(tmp_path: Path) -> None:
    own = copy.deepcopy(RESULTS["config"]) | {"model": {"_target_": "mine.Net"}}
    html, _ = make_report(make_run(tmp_path / "own", config=own, family="looped"))
    assert FAMILIES["looped"].color in html


def test_folders_without_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    broken = make_run(tmp_path / "broken")
    (broken / "results.json").write_text('{"final": ')
    foreign = make_run(tmp_path / "foreign")
    (foreign / "results.json").write_text('{"accuracy": 1}')
    for name, what, hint in [
        ("none", "does not exist", "path="),
        ("empty", "no results in it", "path="),
        ("half", "unfinished run", "resume="),
        ("broken", "cannot be read", "damaged"),
        ("foreign", "not written by trm_lightning", "folder"),
        ("broken/results.json", "is a file", "folder"),
    ]:
        with pytest.raises(UserError, match=what) as caught:
            make_report(tmp_path / name)
        assert hint in caught.value.hint
        assert not (tmp_path / name / "report.html").exists()


def test_text_of_a_report_is_escaped(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script> | & ünï"
    page = Report(
        nasty, nasty, [Number(nasty, "1")], [
            Section(nasty, nasty, tables=[Table(nasty, [nasty], [[nasty]])],
                    listings=[Listing(nasty, nasty)])
        ], warning=nasty,
    )  # fmt: skip
    html, markdown = render_html(page, {}), render_markdown(page)
    assert "<script>" not in html and "&lt;script&gt;alert(1)&lt;/script&gt; | &amp; ünï" in html
    assert "| &lt;script>alert(1)&lt;/script> \\| & ünï |" in markdown
    assert "<script>" not in markdown.replace("```text\n" + nasty, "")


def test_markdown_tables_are_whole(tmp_path: Path) -> None:
    tables = [
        Table("First", ["a", "b"], [["x", "1"], ["y", "2"]], "A note."),
        Table("", ["only"], [["z"]]),
    ]
    text = render_markdown(
        Report("T", "s", [Number("n", "1", "note")], [Section("S", tables=tables)])
    )
    assert "- n: **1** (note)\n" in text
    plain = re.sub(r" +", " ", re.sub(r"-{2,}", "--", text))
    assert "### First\n\n| a | b |\n| -- | -: |\n| x | 1 |\n| y | 2 |\n\nA note.\n" in plain
    assert "\n| only |\n| -- |\n| z |\n" in plain


def test_inline_figures_take_the_pages_colour_and_size(tmp_path: Path) -> None:
    figure, axes = new_axes("A title", "x", "y")
    add_line(axes, FAMILIES["ar"], [1, 2, 3], [1.0, None, 3.0], "a line")
    saved = save_figure(figure, tmp_path / "plot")
    assert saved == (tmp_path / "plot.svg").read_text() and "#ffffff" in saved
    svg = as_element(saved, "name")
    root = ElementTree.fromstring(svg)
    assert "width" not in root.attrib and root.attrib["viewBox"]
    assert "currentColor" in svg and "#ffffff" not in svg and "DejaVu" not in svg
    assert "A title" in svg and "#0072b2" in svg  # text stays text
    assert all(i.startswith("name-") for i in re.findall(r'\bid="([^"]+)"', svg))


def test_axes_of_perplexity_are_logarithmic_only_where_values_span_much() -> None:
    for values, scale in (([20.0, 50.0], "linear"), ([20.0, 5000.0], "log")):
        _, axes = new_axes("", "", "")
        scale_perplexity(axes, values)
        assert axes.get_yscale() == scale


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0"), (1.33, "1.33"), (94.68, "94.68"), (1234.5, "1,234"),
     (223_620, "223,620"), (0.00001234, "1.2e-05"), (float("inf"), "inf")],
)  # fmt: skip
def test_numbers_as_shown(value: float | None, shown: str) -> None:
    assert number(value) == shown


def make_long_report(folder: Path) -> Path:
    """Write a page with everything that might overflow."""
    figure, axes = new_axes("A title", "x", "y")
    add_line(axes, FAMILIES["ar"], [1, 2], [1.0, 2.0], "a line")
    wide = Table("Wide", ["column"] * 20, [["1,234,567"] * 20])
    code = Listing("Command", "python -m trm_lightning.train " + "model.width=123," * 20)
    plot = Picture("plot", "A caption.", figure, wide=True)
    section = Section("Section", "word " * 100 + "w" * 300, [plot], [wide], [code], ["p " * 99])
    numbers = [Number("n" * 40, "1,234,567.89")] * 7
    folder.mkdir()
    page = Report("Title" * 40, "subtitle", numbers, [section], warning="WARNING " * 20)
    return write_report(page, folder)[0]


def browse(page: Path, width: int, folder: Path) -> tuple[int, int, set[str]]:
    """Open a page in a frame of this width: a headless window cannot be as narrow as a phone.

    Returns:
        Width that the page needs, width that it has, addresses that were asked for.
    """
    folder.mkdir()
    frame = folder / "frame.html"
    probe = (
        "const frame = document.querySelector('iframe');"
        "const page = frame.contentDocument.documentElement;"
        "const asked = frame.contentWindow.performance.getEntriesByType('resource');"
        "document.body.dataset.measured = `${page.scrollWidth} ${page.clientWidth} "
        "${asked.map(entry => entry.name).join(' ')}`;"
    )
    frame.write_text(
        f'<iframe src="{page.as_uri()}" style="width:{width}px;height:900px;border:0" '
        f'onload="{probe}"></iframe>'
    )
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--allow-file-access-from-files", "--window-size=1400,1000",
            f"--user-data-dir={folder / 'profile'}", "--dump-dom", frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    measured = re.search(r'data-measured="(\d+) (\d+) ([^"]*)"', done.stdout)
    assert measured, done.stdout[-2000:] + done.stderr[-2000:]
    return int(measured[1]), int(measured[2]), set(measured[3].split())


needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_phone_and_desktop_and_ask_for_nothing(tmp_path: Path, width: int) -> None:
    run = make_run(tmp_path / ("a_run_with_a_very_long_name_" * 4), is_likelihood=False)
    make_report(run)
    make_report(make_comparison(tmp_path / "words"))
    pages = [make_long_report(tmp_path / "long"), run / "report.html"]
    for i, page in enumerate([*pages, tmp_path / "words" / "report.html"]):
        needed, had, asked = browse(page, width, tmp_path / f"browser{i}")
        assert had == width and needed <= had, page
        assert not asked


@pytest.mark.slow
@needs_chromium
def test_a_page_that_overflows_and_asks_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<p style="width:900px">x</p><img src="http://127.0.0.1:9/tracker.png">')
    needed, had, asked = browse(page, 390, tmp_path / "browser")
    assert needed > had and "http://127.0.0.1:9/tracker.png" in asked


def entry(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """One line of a comparison of two seeds; see trm_lightning.studies.summary."""
    mean = {"mean": 40.5, "low": 39.0, "high": 42.0, "half_width": 1.5, "n": 2}
    names = (
        "best", "final", "bits_per_character", "degradation_percent", "tokens", "seconds",
        "tokens_per_second", "time_ratio",
    )  # fmt: skip
    run = {"status": "completed", "failure": None, "best": 40.0, "final": 41.0}
    return {
        "name": name, "note": "a note", "published": 159.06, "is_baseline": name == "ar",
        "against": "ar",
        "metric": "val/ppl", "meaning": "exact perplexity", "is_likelihood": True,
        "parameters": 108480, "flops_per_token": 1e6, "comparable": True,
        "figures": dict.fromkeys(names, mean) | {"reached_baseline": 0},
        "runs": [run | {"seed": s, "folder": f"gone/{name}_seed{s}"} for s in (1, 2)],
    } | changes  # fmt: skip


def make_comparison(folder: Path) -> Path:
    (folder / "runs").mkdir(parents=True)
    verdict = {"passed": True, "leaks": False, "failed": {"ppl": []}}
    warm = {"metric": "val/warm_start_ppl", "is_likelihood": False, "meaning": "NOT A LIKELIHOOD"}
    for seed in (1, 2):
        make_run(folder / "runs" / f"ar_seed{seed}", audit=verdict)
        final = {"val/warm_start_ppl": SCORE | {"is_likelihood": False}}
        make_run(folder / "runs" / f"warm_seed{seed}", final=final, is_likelihood=False)
    content = {
        "name": "words", "status": "completed", "data": "builtin_word", "baseline": "ar",
        "parity": "tokens", "budget": "smoke", "notes": ["At parity in tokens."],
        "entries": [entry("ar", folder), entry("warm", folder, **warm)],
        "command": ["python", "-m", "trm_lightning.compare", "study=notes_word"],
        "environment": ENVIRONMENT,
    }  # fmt: skip
    (folder / "comparison.json").write_text(json.dumps(content))
    return folder


def test_a_comparison_report_keeps_kinds_of_numbers_apart(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "words")
    html, markdown = make_report(folder)
    assert_self_contained(html)
    assert "SMOKE BUDGET" in html and "NOT A LIKELIHOOD: warm." in html
    for shown in ("40.5 ± 1.5", "At parity in tokens.", "ar: a note.",
                  "python -m trm_lightning.compare study=notes_word"):  # fmt: skip
        assert shown in markdown, shown
    assert ["ar", "1, 2", "All checks passed."] in cells(markdown)
    assert ["warm", "1, 2", "Not audited."] in cells(markdown)
    drawn = {path.stem: path.read_text() for path in (folder / "figures").glob("*.svg")}
    assert set(drawn) == {
        "intervals", "learning_tokens_perplexity", "learning_seconds_perplexity",
        "learning_tokens_not_a_likelihood", "learning_seconds_not_a_likelihood",
    }  # fmt: skip
    assert "warm" not in drawn["intervals"] and "warm" not in drawn["learning_tokens_perplexity"]
    assert "perplexity" not in drawn["learning_tokens_not_a_likelihood"]


def test_a_comparison_without_a_finished_run_is_told(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "words")
    content = json.loads((folder / "comparison.json").read_text())
    nothing = dict.fromkeys(("metric", "meaning", "is_likelihood", "parameters", "flops_per_token"))
    for line in content["entries"]:
        line["figures"] = dict.fromkeys(line["figures"]) | {"reached_baseline": 0}
        line["runs"] = [
            {"seed": 1, "status": "unfinished at step 40", "failure": None, "folder": "gone"}
        ]
        line |= nothing | {"comparable": False}
    content |= {"status": "unfinished", "data": None}
    (folder / "comparison.json").write_text(json.dumps(content))
    html, markdown = make_report(folder)
    assert "UNFINISHED" in html and "unfinished at step 40" in markdown
    assert not list((folder / "figures").iterdir())


@pytest.mark.slow
def test_a_recursive_run_shows_its_words_and_its_analysis(configure: Configure) -> None:
    cfg = configure("model=trm", "model.chunk_size=2", "model.n_refinements=2", "budget.steps=4")
    train(cfg)
    run = Path(cfg.run_dir)
    html, markdown = make_report(run)
    assert_self_contained(html)
    assert "figures/refinement.svg" in markdown and "trm_lightning.analyze run=" in markdown
    assert "Top guess after each refinement" in html  # the picture is in the page

    settings = {
        "run": str(run),
        "split": "val",
        "depth": 3,
        "max_tokens": 200,
        "ablations": True,
        "exit_thresholds": [0.1],
    }
    analyze(OmegaConf.create(settings | {"device": "cpu", "trust": [], "check": False}))
    for folder in (run, run / "analysis"):
        html, markdown = make_report(folder)
        assert_self_contained(html)
        assert "only the first 200 of" in markdown and "no mutual visibility" in markdown
        assert {"3 *", "2"} <= {row[0] for row in cells(markdown)}  # deeper than trained, trained
        assert (folder / "figures" / "depth.png").read_bytes().startswith(b"\x89PNG")
        assert "Most probable token after each refinement" in html

    shutil.rmtree(run / "analysis")
    shutil.rmtree(run / "checkpoints")
    assert "There is no picture of it" in make_report(run)[1]
