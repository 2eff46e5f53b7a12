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
    "tests.interleaving.report",
    "tests.support.databases",
    "tests.support.enrollments",
    "tests.support.network_faults",
    "tests.support.gateway_pair",
    "tests.support.otlp_collector",
    "tests.support.gateway_processes",
    "tests.support.outage_world",  # stands on processes
    "tests.support.json_walk",
    "tests.support.documented_commands",
    "tests.support.renewals",
    "tests.support.scripted",
    "tests.support.server_in_memory",
    "tests.support.server_on_database",
    "tests.support.memory_exporters",
    "tests.support.status_walk",
    "tests.support.watching",
]
