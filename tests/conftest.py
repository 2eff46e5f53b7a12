"""Fixtures for every test, and how long an example of a property may take."""

from hypothesis import settings

# A machine that is busy elsewhere is no fault of the code; pytest's own time limit holds for hangs.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

pytest_plugins = [
    "tests.support.databases",
    "tests.support.enrollments",
    "tests.support.faults",
    "tests.support.gateways",
    "tests.support.otlp",
    "tests.support.processes",
    "tests.support.renewals",
    "tests.support.scripted",
    "tests.support.serving",
    "tests.support.granting",
    "tests.support.spans",
    "tests.support.watching",
]
