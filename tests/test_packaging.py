"""The wheel works without the checkout: commands, configs and completion from any folder."""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
COMMANDS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the built wheel, and this one's packages for what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("trm_lightning-*.whl")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    ours = Path(pytest.__file__).parent.parent
    # Appended after the environment's own packages, and without this one's editable checkout.
    (site / "dependencies.pth").write_text(str(ours))
    return folder / "venv" / "bin"


def run(command: str, folder: Path, *args: str, **env: str) -> str:
    result = subprocess.run(
        [command, *args],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_installed_package_finds_its_own_configs(binaries: Path, tmp_path: Path) -> None:
    code = "from trm_lightning.cli.compose import conf_dir; print(conf_dir())"
    found = Path(run(str(binaries / "python"), tmp_path, "-c", code).strip())
    assert binaries.parent in found.parents
    shipped = {path.relative_to(found) for path in found.rglob("*.yaml")}
    conf = REPOSITORY / "conf"
    assert shipped == {path.relative_to(conf) for path in conf.rglob("*.yaml")}


@pytest.mark.parametrize("command", COMMANDS)
def test_console_script_and_module_work_from_any_folder(
    binaries: Path, tmp_path: Path, command: str
) -> None:
    module = command.replace("trm-", "trm_lightning.")
    shown = run(str(binaries / command), tmp_path, "--help")
    usage = rf"Usage: \S+ -m {re.escape(module)} "  # as pasted, it runs whatever is active
    assert re.search(usage, shown) and f"the command is also {command};" in shown
    assert re.search(usage, run(str(binaries / "python"), tmp_path, "-m", module, "--help"))
    assert list(tmp_path.iterdir()) == []


def test_completion_of_the_console_script(binaries: Path, tmp_path: Path) -> None:
    train = str(binaries / "trm-train")
    assert run(train, tmp_path, "-sc", "install=bash").rstrip().endswith("trm-train")
    answer = run(train, tmp_path, "-sc", "query=bash", COMP_LINE="trm-train model=")
    assert {"model=ar", "model=trm"} <= set(answer.split())
