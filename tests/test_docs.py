"""The checker of the documentation finds what is wrong, and nothing else."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import readme_commands

CHECKER = Path(__file__).parent / "readme_commands.py"
DOCS = Path(__file__).resolve().parent.parent / "docs"

RUN = """
```bash
echo made > note.txt
```

<!-- skip -->
```bash
exit 7
```

```bash
grep made note.txt  # of the block before
python -c "import trm_lightning"
```

```python
assert open("note.txt").read() == "made\\n"
```
"""

LONG = """
<!-- long -->
```bash
make lint
trm-train model=trm,ar \\
    seed=1 --multirun  # a comment
exit 7  # no command of this package: never run
```

<!-- long -->
```python
1 / 0
```
"""

LINKS = """
# Words & numbers, `v1.2`

[up](#words--numbers-v12), [there](other.md), ![picture](other.md), [far](https://example.org/x)

```text
[not a link](nowhere.md)
```
"""


Check = Callable[[str], tuple[int, str]]


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Check:
    """Check a page of this text, beside another page; returns the exit status and the output."""
    (tmp_path / "other.md").touch()
    monkeypatch.chdir(tmp_path)

    def checked(text: str) -> tuple[int, str]:
        (tmp_path / "page.md").write_text(text)
        return readme_commands.main([str(tmp_path / "page.md")]), capfd.readouterr().out

    return checked


def test_good_page_passes(check: Check) -> None:
    status, shown = check(RUN + LONG + LINKS)
    assert status == 0, shown
    assert shown.count(": ok") == 5 and shown.count("skipped") == 1


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        (RUN, "made note", "lost note"),
        (RUN, '"made\\n"', '"lost\\n"'),
        (LONG, "model=trm", "modle=trm"),
        (LONG, "lint", "lnit"),
        (LONG, "1 / 0", "1 / )"),
        (LINKS, "(other.md)", "(https:other.md), ![lost](pictures/lost.png)"),
        (LINKS, "#words--numbers-v12", "#words-numbers"),
    ],
)
def test_what_is_wrong_is_found(check: Check, text: str, right: str, wrong: str) -> None:
    status, shown = check(text.replace(right, wrong, 1))
    assert status == 1
    assert shown.count("FAILED") == 1 and wrong.split("(")[-1].strip(")") in shown


def test_pages_of_a_folder_are_checked(tmp_path: Path) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "deep" / "page.md").write_text("[lost](lost.md)")
    command = [sys.executable, str(CHECKER), str(tmp_path / "docs")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "lost.md" in result.stdout


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for number, source in enumerate(cells, start=1):
        exec(compile(source, f"cell {number}", "exec"), namespace)
    assert len(cells) >= 4
