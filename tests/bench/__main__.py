"""`make bench`, or `python -m tests.bench [--quick] [--rounds N] [--json]`."""

import argparse
import json
import logging
import sys
from dataclasses import replace

from rich.console import Console
from rich.progress import Progress, TaskID

from tests.bench.report import as_json, show
from tests.bench.run import DEFAULT, QUICK, Plan, Run, measure


def main() -> None:
    """Measure and print. Progress is shown on stderr if stderr is a terminal."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few calls and rounds, to test the benchmark")
    parser.add_argument("--rounds", type=int, metavar="N", help="how many rounds (default 30; quick 3)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    options = parser.parse_args()
    plan = QUICK if options.quick else DEFAULT
    if options.rounds is not None:
        if options.rounds < 1:
            parser.error("--rounds must be at least 1")
        parts = ("rounds", "growth_rounds", "session_rounds", "status_rounds")
        plan = replace(plan, **dict.fromkeys(parts, options.rounds))
    logging.getLogger("federation").addHandler(logging.NullHandler())  # offline peers are logged
    run = _measured(plan)
    if options.json:
        json.dump(as_json(run), sys.stdout, indent=2)
        print()
    else:
        wide = None if sys.stdout.isatty() else 150
        show(run, Console(width=wide))


def _measured(plan: Plan) -> Run:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(part: str, done: int, total: int) -> None:
            if part not in tasks:
                tasks[part] = bar.add_task(part)
            bar.update(tasks[part], completed=done, total=total)

        return measure(plan, progress)


if __name__ == "__main__":
    main()
