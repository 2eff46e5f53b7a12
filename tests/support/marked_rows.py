"""Gateways whose peer's data are all marked, with every place that the asking gateway may write to known."""

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
from tests.support.disk_search import files_with
from tests.support.gateway_processes import MOSAIC, environment, mosaic
from tests.support.otlp_collector import Collector
from tests.support.process_pair import ProcessPair

WORK: Final = "federated:work.example"
MARK: Final = "zq5b81d94cmark"
"""Part of every id, team, title and text of the work gateway's rows, and of nothing else."""
SERVE: Final = """
import functools, logging, sys
import mosaic_cli.gateway.serve
mosaic_cli.gateway.serve.setup_logging = functools.partial(mosaic_cli.gateway.serve.setup_logging, level=logging.DEBUG)
from mosaic_cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""Serves with the log level DEBUG."""


def marked_rows(count: int = 40) -> bytes:
    """Rows of ada in a team, marked in every writable field; one is larger than a database page."""
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
class MarkedGateways(ProcessPair):
    """Two gateways; home's processes write only below `home` and `side_directory`, which also has their exports."""

    seen: list[str] = field(default_factory=list)
    """The outputs of queries, as proof that rows were returned."""

    @property
    def side_directory(self) -> Path:
        """Home's temporary files, its user's home directory, its logs and its exported telemetry."""
        return self.directory / "beside"

    def files_with_mark(self) -> dict[str, set[str]]:
        """Every file of home that contains the mark, with the encodings."""
        return {**files_with(self.directory / "home", MARK), **files_with(self.side_directory, MARK)}

    def variables_of_home(self) -> dict[str, str]:
        """Environment variables that keep the files of home's processes below `side_directory`."""
        side_directory = {
            name: str(self.side_directory / name.lower()) for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")
        }
        return {**self.variables, **side_directory}

    def serve_home(self) -> None:
        """Start home with its complete log in a file."""
        log = (self.side_directory / "home.log").open("ab")
        with log:
            process = subprocess.Popen(
                [MOSAIC[0], "-c", SERVE, "gateway", "serve", "--gateway", "home"],
                cwd=self.directory,
                env=environment(PYTHONUNBUFFERED="1", **self.variables_of_home()),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.processes["home"] = process
        assert process.stdout is not None
        assert any(line.startswith("  admin") for line in process.stdout), (
            self.side_directory / "home.log"
        ).read_text()

    def query(self, line: str, code: int = 0, source: str = "all") -> Any:
        """Query by the command line as ada."""
        words = ["federation", "query", *line.split(), "--user", "ada", "--source", source, "-g", "home", "--json"]
        ran = mosaic(*words, cwd=self.directory, **self.variables_of_home())
        assert ran.returncode == code, (line, ran.stdout, ran.stderr)
        with (self.side_directory / "commands.log").open("a") as log:
            log.write(ran.stderr)
        self.seen.append(ran.stdout)
        return json.loads(ran.stdout) if ran.stdout.strip() else None


class FileCollector(Collector):
    """Writes each received export request to a file."""

    directory: Path
    count = 0

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        FileCollector.count += 1
        (self.directory / f"{type(request).__name__}-{FileCollector.count}").write_bytes(request.SerializeToString())
        return super().Export(request, context)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write every log record of this process to a file."""
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
    """Write every span of this process to a file, inside one span of the program."""
    tracers = TracerProvider(shutdown_on_exit=False)
    with path.open("w") as out:
        tracers.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
        with tracers.get_tracer("program").start_as_current_span("work"):
            yield Telemetry(SpanSource(tracers), metrics_for(None), tracers)
        tracers.shutdown()
