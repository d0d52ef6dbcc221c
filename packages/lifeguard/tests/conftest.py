"""The service of the engine's tests, for the fixtures of `lifeguard.testing`."""

import pytest
from lifeguard.testing.service import ServiceUnderTest

from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.sample.settings import Settings


@pytest.fixture(scope="session")
def service_under_test() -> ServiceUnderTest[Settings]:
    return ServiceUnderTest(create_app, Settings)
