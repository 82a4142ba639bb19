"""What the tests of users share."""

import pytest

from users.models import User


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ada@example.com")
