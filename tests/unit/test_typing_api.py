"""The types of the public API, as a program's own type checker sees them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_public_api_has_the_types_that_it_promises(tmp_path: Path) -> None:
    """A strict type checker accepts the documented uses, and infers what they say."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "tests/typing_api.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout
