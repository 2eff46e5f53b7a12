"""The wheel beside a distribution with a top-level module `cli`: neither overwrites the other."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.gateway_processes import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
OTHER = "other_tool-1.0"
FILES_OF_OTHER = {
    "cli/__init__.py": 'OWNER = "other-tool"\n',
    "cli/main.py": 'OWNER = "other-tool"\n',
    f"{OTHER}.dist-info/METADATA": "Metadata-Version: 2.1\nName: other-tool\nVersion: 1.0\n",
    f"{OTHER}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{OTHER}.dist-info/top_level.txt": "cli\n",
}
IMPORTS = (
    "import cli.main, federation.gateway, mosaic_cli.main as m; print(cli.main.OWNER, m.__file__, federation.__file__)"
)


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without environment variables that change Python's module search; return its output."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "MOSAIC_"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy, because setuptools writes into the source tree."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    for name in ("federation", "cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    run(*PIP, "wheel", "--quiet", *offline, "--wheel-dir", directory, source, cwd=directory)
    (built,) = directory.glob("mosaic_federation-*.whl")
    return built


@pytest.fixture(scope="module")
def other_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of another distribution with the top-level package `cli`."""
    path = tmp_path_factory.mktemp("other") / f"{OTHER}-py3-none-any.whl"
    record = f"{OTHER}.dist-info/RECORD"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES_OF_OTHER.items():
            archive.writestr(name, text)
        archive.writestr(record, "".join(f"{name},,\n" for name in (*FILES_OF_OTHER, record)))
    return path


def test_the_wheel_has_two_packages_and_all_their_files(wheel: Path) -> None:
    """The wheel has `federation` and `mosaic_cli` with every module and data file, and no top-level `cli`."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (top_level,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/top_level.txt"))
    expected = {
        str(path.relative_to(base))
        for base, package in ((ROOT, "federation"), (ROOT / "cli", "mosaic_cli"))
        for path in (base / package).rglob("*")
        if path.is_file() and path.suffix in {".py", ".pyi", ".typed", ".mako", ".jsonl"}
    }

    assert top_level.split() == ["federation", "mosaic_cli"]
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"federation", "mosaic_cli"}
    assert expected - set(names) == set()


@pytest.mark.parametrize("first", ["mosaic", "other"])
def test_the_wheel_works_beside_another_package_named_cli(
    wheel: Path, other_wheel: Path, tmp_path: Path, first: str
) -> None:
    """Both distributions keep their modules and the command runs, in either order of installation."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    for path in (wheel, other_wheel) if first == "mosaic" else (other_wheel, wheel):
        run(*PIP, "--python", python, "install", "--quiet", "--no-deps", "--no-index", path, cwd=tmp_path)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")

    assert (
        run(tmp_path / "venv" / "bin" / "mosaic", "--version", cwd=tmp_path)
        == f"mosaic {version('mosaic-federation')}\n"
    )
    assert run(python, "-c", IMPORTS, cwd=tmp_path).split() == [
        "other-tool",
        str(packages / "mosaic_cli" / "main.py"),
        str(packages / "federation" / "__init__.py"),
    ]
