"""The page of an audit."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import TINY
from warm import WarmProcess

DATA = [override for override in TINY if "data." in override]
NET = ["model.width=16", "model.n_heads=2", "train_steps=0", "device=cpu"]


class Words(HTMLParser):
    """Collects the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data.strip())


@pytest.mark.parametrize(("model", "status"), [("leaky_chunk_mask", 1), ("ar", 0)])
def test_the_page_tells_verdict_checks_and_how_to_see_it_again(
    model: str, status: int, tmp_path: Path, warm: WarmProcess
) -> None:
    done = warm.call(
        "audit", f"model={model}", *DATA, *NET, "report=page", folder=tmp_path, limit=240
    )
    assert done.returncode == status, done.stderr
    page = (tmp_path / "page" / "report.html").read_text()
    words = Words()
    words.feed(page)
    text = " ".join(words.found)
    assert "printed scores" in text and "counted once" in text
    assert f"audit model={model}" in text
    leaks = bool(status)
    assert ("checks FAILED." in text) == leaks and ("All checks passed." in text) == (not leaks)
    assert ("new_model(" in text) == leaks and ("<svg" in page) == leaks
    assert ("What moves" in text) == leaks
    markdown = (tmp_path / "page" / "report.md").read_text()
    assert ("new_model(" in markdown) == leaks
