"""Fixtures of the end-to-end tests: `home` and `work` are complete gateways."""

import pytest

from tests.support.gateway_pair import Running


@pytest.fixture
def home(home_gateway: Running) -> Running:
    """The asking gateway."""
    return home_gateway


@pytest.fixture
def work(work_gateway: Running) -> Running:
    """The serving gateway."""
    return work_gateway
