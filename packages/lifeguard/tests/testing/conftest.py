"""As in the tests of a service's owner."""

import pytest
from lifeguard.testing.service import ServiceUnderTest

from packages.lifeguard.tests.testing.orders import Settings, create_app


@pytest.fixture(scope="session")
def service_under_test() -> ServiceUnderTest[Settings]:
    return ServiceUnderTest(create_app, Settings)
