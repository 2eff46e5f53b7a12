"""Fixtures of the end-to-end tests: `home` and `work` are whole gateways."""

import pytest

from tests.support.gateway_pair import Running


@pytest.fixture
def home(home_gateway: Running) -> Running:
    """The gateway that asks."""
    return home_gateway


@pytest.fixture
def work(work_gateway: Running) -> Running:
    """The gateway that is asked."""
    return work_gateway
