"""The service of these tests, for the fixtures of `lifeguard.testing`."""

import pytest
from lifeguard.testing.service import ServiceUnderTest

from app.main import create_app
from app.settings import Settings


@pytest.fixture(scope="session")
def service_under_test() -> ServiceUnderTest[Settings]:
    return ServiceUnderTest(create_app, Settings)
