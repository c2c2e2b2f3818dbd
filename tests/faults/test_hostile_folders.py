"""Run folders made to attack who reports on them: nothing is run, loaded or obeyed."""

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from report_folders import RESULTS, SCORE, make_run

from trm_lightning.reports.command import report

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]
Tell = Callable[[str, int, int], None]
DO = "document.title='owned';new Image().src='URL/js'"  # what a script does that is run
PAYLOADS = {
    "script": f"<script>{DO}</script>",
    "script of another case": f"<ScRiPt\n>{DO}</sCrIpT >",
    "script elsewhere": "<script src='URL/x.js'></script>",
    "title ends": f"</title><script>{DO}</script>",
    "style ends": f"</style><script>{DO}</script>",
    "pre ends": f"</pre></details><script>{DO}</script>",
    "svg ends": f"</text></g></svg><script>{DO}</script>",
    "comment ends": f"--><script>{DO}</script><!--",
    "character data end": f"]]><script>{DO}</script>",
    "attribute ends": f'"\'><img src=URL/a onerror="{DO}">',
    "attribute grows": f'" onmouseover="{DO}" autofocus onfocus="{DO}" tabindex=0 x="',
    "entities": f"&lt;script&gt;{DO}&lt;/script&gt;&#60;script&#62;{DO}&#60;/script&#62;",
    "image": "<img src=URL/image.png srcset='URL/2x.png 2x'>",
    "image that fails": f'<img src=x: onerror="{DO}">',
    "svg that loads": f'<svg onload="{DO}"></svg>',
    "svg with script": f"<svg><script>{DO}</script></svg>",
    "svg with image": "<svg><image href='URL/i.png'/><use href='URL/u.svg#x'/></svg>",
    "foreign object": f'<svg><foreignObject><body onload="{DO}"></foreignObject></svg>',
    "frame": "<iframe src=URL/frame></iframe><iframe srcdoc='<script>parent.document.title="
    "&quot;owned&quot;</script>'></iframe>",
    "stylesheet": "<link rel=stylesheet href=URL/x.css>",
    "import": "<style>@import 'URL/x.css'; body{background:url(URL/b.png)}</style>",
    "style attribute": "<p style='background:url(URL/b.png)'>x</p>",
    "base": "<base href=URL/>",
    "refresh": "<meta http-equiv=refresh content='0;url=URL/refresh'>",
    "object": "<object data=URL/o></object><embed src=URL/e>",
    "video": f'<video src=URL/v autoplay onerror="{DO}"></video><audio src=URL/a></audio>',
    "toggle": f'<details open ontoggle="{DO}">x</details>',
    "focus": f'<input autofocus onfocus="{DO}">',
    "link": f'<a href="javascript:{DO}" id=a>x</a><script>a.click()</script>',
    "form": "<form action=URL/form id=f></form><script>f.submit()</script>",
    "template": "{{ self.__init__.__globals__ }}{% include '/etc/passwd' %}${now:}${oc.env:HOME}",
    "prefetch": "<link rel=prefetch href=URL/p><link rel=dns-prefetch href=URL>",
    "markdown": f"![x](URL/m.png) [x](javascript:{DO}) <URL/auto> `x` | x | # x",
}
PICTURES = {
    "script": f"<svg xmlns='http://www.w3.org/2000/svg'><script>{DO}</script></svg>",
    "event": f"<svg xmlns='http://www.w3.org/2000/svg' onload=\"{DO}\"></svg>",
    "image": "<svg xmlns='http://www.w3.org/2000/svg'><image href='URL/p.png'/></svg>",
    "page": f"<html><script>{DO}</script><img src=URL/h.png></html>",
    "end": f"</svg>'\"><script>{DO}</script>",
}


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """A server whose address stands for the rest of the world, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def title_in_browser(page: Path, profile: Path) -> str:
    """Open a page in Chromium; return the title that it then has."""
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={profile}", "--virtual-time-budget=3000", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    return html.unescape(found[1]) if found else ""


def hostile_run(folder: Path, text: str) -> Path:
    """A finished run in which every text is another one."""
    name = f"val/{text}"
    verdict = {"passed": False, "leaks": True, "failed": {text: [text]}}
    check = {"name": text, "passed": False, "detail": text, "position": 1}
    words = {"python", "platform", "cpu", "gpu", "git_commit"}
    run = make_run(
        folder, status=text, data=text, data_fingerprint=text, family=text, audit=verdict,
        final={name: SCORE | {"meaning": text, "is_likelihood": False}},
        best={name: {"perplexity": 2.0, "step": 1}},
        environment={**dict.fromkeys(words, text), "packages": {text: text}, "threads": 1,
                     "command": [text, text]},
        config={**RESULTS["config"], text: {text: [text]}, "experiment_name": text,
                "data": {"name": text}, "model": {"_target_": text}},
    )  # fmt: skip
    scores = {text: {"passed": False, "checks": [check]}}
    (run / "audit.json").write_text(json.dumps(verdict | {"scores": scores}))
    (run / "samples.txt").write_text(f"--- step 1 ---\n{text}\n\n--- step 2 ---\n{text}\n")
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps([text]))
    (run / "analysis").mkdir()
    (run / "analysis" / "analysis.json").write_text(json.dumps(hostile_analysis(text)))
    return run


def hostile_analysis(text: str) -> dict[str, Any]:
    measured = ("ppl", "nats_per_token", "entropy", "kl", "right", "changed", "better", "worse",
                "y_cosine", "z_cosine", "y_norm", "z_norm")  # fmt: skip
    steps = [
        {"refinement": k, "recursion": 1, "supervision_step": 1, "beyond_training": False}
        | dict.fromkeys(measured, 2.0 + k)
        for k in (0, 1, 2)
    ]
    return {
        "run": text, "data": text, "net": text, "split": text, "measure": "ppl", "meaning": text,
        "parameters": 9, "optimizer_steps": 9, "tokens": 9, "split_tokens": 10, "window": 8,
        "stride": 8, "whole_split": False, "is_likelihood": False, "steps": steps,
        "entropy_floor_perplexity": None, "early_exit": [],
        "groups": {text: [{"name": text, "tokens": 9, "ppl": [3.0, 2.0, 1.0]}]},
        "ablations": [{"name": text, "meaning": text, "measure": "ppl", "value": 3.0,
                       "nats_per_token": 1.0}],
        "recursion": {"n_supervision": 1, "n_recursions": 1, "scoring_depth": 2,
                      "n_refinements": 2, "supervised_depths": 1},
        "environment": RESULTS["environment"],
    }  # fmt: skip


def make_report(folder: Path) -> Path:
    report(OmegaConf.create({"path": str(folder), "trust": [], "check": False}))
    return folder / "report.html"


def is_harmless(page: Path, profile: Path, asked: list[str]) -> str:
    """Return what a page did that it must not; empty for nothing."""
    asked.clear()
    own = re.search(r"<title>(.*?)</title>", page.read_text(), re.DOTALL)
    assert own is not None
    title = title_in_browser(page, profile)
    if title != html.unescape(own[1]) or title == "owned":
        return f"the title became {title!r}"
    return f"it asked for {asked}" if asked else ""


def test_texts_of_a_hostile_run(
    tmp_path: Path, elsewhere: tuple[str, list[str]], tell: Tell
) -> None:
    url, asked = elsewhere
    failures = {}
    for k, (name, payload) in enumerate(PAYLOADS.items()):
        text = payload.replace("URL", url)
        run = hostile_run(tmp_path / f"{k} {re.sub(r'[/$]', '', text)[:60]}", text)
        page = make_report(run)
        did = is_harmless(page, tmp_path / "profile", asked)
        shown = len(re.findall(re.escape(text), html.unescape(page.read_text())))
        if did or shown < 20:
            failures[name] = did or f"shown {shown} times"
        if images(page.with_suffix(".md").read_text(), url):
            failures[f"{name} in Markdown"] = "it has markup"
    tell("hostile texts in every place of a report", len(PAYLOADS) - len(failures), len(PAYLOADS))
    assert not failures


def images(markdown: str, url: str) -> list[str]:
    """Tags, links and images of a Markdown text that is no code."""
    text = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", markdown)
    text = re.sub(r"(?<!\\)(`+)(?!`).*?[^`]\1(?!`)", "", text)
    found = re.findall(r"(?<!\\)\]\((?!figures/)|(?<!\\)!\[(?!.*\]\(figures/)|<[a-zA-Z/!]", text)
    return [*found, *re.findall(rf"<{url}", text)]


def test_hostile_pictures(tmp_path: Path, elsewhere: tuple[str, list[str]], tell: Tell) -> None:
    url, asked = elsewhere
    failures = {}
    for name, picture in PICTURES.items():
        run = hostile_run(tmp_path / name, "text")
        for suffix in ("svg", "png"):
            file = run / "analysis" / f"refinement.{suffix}"
            file.write_text(picture.replace("URL", url))
        page = make_report(run)
        did = is_harmless(page, tmp_path / "profile", asked)
        if did or "<img alt" not in page.read_text():
            failures[name] = did or "it is not shown"
    tell("hostile pictures in a report", len(PICTURES) - len(failures), len(PICTURES))
    assert not failures


def test_a_page_without_defence_is_found_out(
    tmp_path: Path, elsewhere: tuple[str, list[str]]
) -> None:
    url, asked = elsewhere
    harmful = partial(is_harmless, profile=tmp_path / "profile", asked=asked)
    for name in ("script", "image", "svg that loads", "import", "refresh"):
        page = tmp_path / "page.html"
        page.write_text(f"<title>own</title>{PAYLOADS[name].replace('URL', url)}")
        assert harmful(page), name
    assert images("see ![x](http://x/y.png)", url) and images("a <img src=x>", url)
