"""Fixtures of all tests, and the settings that a test run must not inherit from its parent process."""

import os
import signal

from hypothesis import settings

# A run in the background inherits an ignored SIGINT and hands it on to its children: no Ctrl-C would reach them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# pytest-xdist sets the size of a terminal that its workers do not have; commands would use it.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# A busy machine must fail no test; pytest's time limit ends tests that hang.
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
