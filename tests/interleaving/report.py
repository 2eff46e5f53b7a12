"""Reports the number of explored states and orders at the end of a test run, and whether that was all of them."""

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write one line for each scenario that was explored, by whichever process."""
    reports: list[Any] = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [
        (report.nodeid, words) for report in reports for name, words in report.user_properties if name == "explored"
    ]
    if lines:
        terminalreporter.section("explored")
    for node, words in lines:
        terminalreporter.write_line(f"{node.partition('[')[2].rstrip(']')}: {words}")
