"""Fixtures for every test, and what a test run must not take from whatever started it."""

import os
import signal

from hypothesis import settings

# Whoever starts a run in the background has it ignore SIGINT, and its children with it: no Ctrl-C would reach them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Whoever runs tests side by side tells each the size of a terminal that it has not; commands would believe it.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# A machine that is busy elsewhere is no fault of the code; pytest's own time limit holds for hangs.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

pytest_plugins = [
    "tests.race.reports",
    "tests.support.databases",
    "tests.support.enrollments",
    "tests.support.faults",
    "tests.support.gateways",
    "tests.support.otlp",
    "tests.support.processes",
    "tests.support.outages",  # stands on processes
    "tests.support.outputs",
    "tests.support.documents",
    "tests.support.renewals",
    "tests.support.scripted",
    "tests.support.serving",
    "tests.support.granting",
    "tests.support.spans",
    "tests.support.states",
    "tests.support.watching",
]
