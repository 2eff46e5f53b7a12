"""Fixtures for every test."""

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
