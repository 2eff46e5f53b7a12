"""A day on which everything of a peer is marked, and everything that a gateway may write lies in known places."""

import json
import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from federation.telemetry.log_format import JsonFormatter
from federation.telemetry.metrics import metrics_for
from federation.telemetry.spans import SpanSource
from federation.telemetry.telemetry import Telemetry
from tests.support.disk_search import remains
from tests.support.gateway_processes import MOSAIC, environment, mosaic
from tests.support.otlp_collector import Collector
from tests.support.outage_world import Pair

WORK: Final = "federated:work.example"
MARK: Final = "zq5b81d94cmark"
"""Stands in every id, team, title and text of the work gateway's rows, and nowhere else."""
SERVE: Final = """
import functools, logging, sys
import mosaic_cli.gateway.serve
mosaic_cli.gateway.serve.setup_logging = functools.partial(mosaic_cli.gateway.serve.setup_logging, level=logging.DEBUG)
from mosaic_cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""Serves with every line of its log."""


def marked_rows(count: int = 40) -> bytes:
    """Rows of ada in a team, marked wherever somebody may write; one is large enough to leave its page."""
    team = f"team-{MARK}"
    lines: list[dict[str, Any]] = [
        {"kind": "user", "id": "ada"},
        {"kind": "team", "id": team},
        {"kind": "member", "user": "ada", "team": team},
    ]
    for number in range(count):
        data = {
            "title": f"common title {MARK} {number}",
            "status": "open" if number % 2 else "done",
            "deep": {"list": [f"{MARK}deep{number}", number], f"key{MARK}": "value"},
            "text": f"{MARK} " + "many words in between " * (1 if number else 3_000),
        }
        place = {"resource": ("tasks", "notes")[number % 2], "id": f"{MARK}-{number}", "owner": "ada", "team": team}
        lines.append({"kind": "row", **place, "created_at": f"2026-01-01T00:00:{number:02}Z", "data": data})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@dataclass
class Day(Pair):
    """Two gateways; everything that home's processes may write lies in `home` and `beside`, with what they sent."""

    seen: list[str] = field(default_factory=list)
    """What came back to those who asked, in memory: proof that rows did come."""

    @property
    def beside(self) -> Path:
        """Home's temporary files, its user's directory, its logs, and what it exported."""
        return self.directory / "beside"

    def everywhere(self) -> dict[str, set[str]]:
        """Every file of home's with the mark in it."""
        return {**remains(self.directory / "home", MARK), **remains(self.beside, MARK)}

    def surroundings(self) -> dict[str, str]:
        """Variables by which a process of home's writes nowhere else."""
        beside = {name: str(self.beside / name.lower()) for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")}
        return {**self.variables, **beside}

    def serve_home(self) -> None:
        """Start home with all of its log, as JSON, in a file."""
        log = (self.beside / "home.log").open("ab")
        with log:
            process = subprocess.Popen(
                [MOSAIC[0], "-c", SERVE, "gateway", "serve", "--gateway", "home"],
                cwd=self.directory,
                env=environment(PYTHONUNBUFFERED="1", **self.surroundings()),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.processes["home"] = process
        assert process.stdout is not None
        assert any(line.startswith("  admin") for line in process.stdout), (self.beside / "home.log").read_text()

    def query(self, line: str, code: int = 0, source: str = "all") -> Any:
        """Ask by the command line as ada."""
        words = ["federation", "query", *line.split(), "--user", "ada", "--source", source, "-g", "home", "--json"]
        ran = mosaic(*words, cwd=self.directory, **self.surroundings())
        assert ran.returncode == code, (line, ran.stdout, ran.stderr)
        with (self.beside / "commands.log").open("a") as log:
            log.write(ran.stderr)
        self.seen.append(ran.stdout)
        return json.loads(ran.stdout) if ran.stdout.strip() else None


class Spool(Collector):
    """Keeps whatever arrives in files, as it arrived."""

    directory: Path
    count = 0

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        Spool.count += 1
        (self.directory / f"{type(request).__name__}-{Spool.count}").write_bytes(request.SerializeToString())
        return super().Export(request, context)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write every line that anything in this process logs."""
    handler, root = logging.FileHandler(path), logging.getLogger()
    handler.setFormatter(JsonFormatter())
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


@contextmanager
def tracing_to(path: Path) -> Iterator[Telemetry]:
    """Write every span of this process, those of the package among them, within one of the program's own."""
    tracers = TracerProvider(shutdown_on_exit=False)
    with path.open("w") as out:
        tracers.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
        with tracers.get_tracer("program").start_as_current_span("work"):
            yield Telemetry(SpanSource(tracers), metrics_for(None), tracers)
        tracers.shutdown()
