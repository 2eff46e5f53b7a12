"""Fixtures of all tests, and settings that a test run must not inherit from its parent process."""

import os
import signal

from hypothesis import settings

# A background run inherits an ignored SIGINT and passes it to its children, which Ctrl-C would then not reach.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# pytest-xdist sets a terminal size for workers without a terminal; commands would use it.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# A slow machine must not fail a test; pytest's timeout ends tests that hang.
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
    "tests.support.process_pair",  # uses gateway_processes
    "tests.support.json_outputs",
    "tests.support.documented_commands",
    "tests.support.renewal_pair",
    "tests.support.scripted",
    "tests.support.server_in_memory",
    "tests.support.server_on_database",
    "tests.support.memory_exporters",
    "tests.support.status_states",
    "tests.support.scripted_watches",
]
