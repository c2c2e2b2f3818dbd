"""The checker of README commands finds what is wrong, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKER = Path(__file__).parent / "readme_commands.py"

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
"""

LONG = """
<!-- long -->
```bash
make lint
trm-train model=trm,ar \\
    seed=1 --multirun  # a comment
exit 7  # no command of this package: never run
```
"""


def check(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "README.md").write_text(text)
    command = [sys.executable, str(CHECKER), str(folder / "README.md")]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_good_readme_passes(tmp_path: Path) -> None:
    result = check(tmp_path, RUN + LONG)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count(": ok") == 3 and result.stdout.count("skipped") == 1


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [(RUN, "made note", "lost note"), (LONG, "model=trm", "modle=trm"), (LONG, "lint", "lnit")],
)
def test_wrong_command_is_found(tmp_path: Path, text: str, right: str, wrong: str) -> None:
    result = check(tmp_path, text.replace(right, wrong))
    assert result.returncode == 1
    assert result.stdout.count("FAILED") == 1 and wrong in result.stdout
