"""Servers that are not there."""

import pytest
from django.db import connections

from tests.conftest import free_port


@pytest.fixture
def no_database(transactional_db):
    """Point this thread's connection at a port where nothing listens, as after a crash of the server."""
    wrapper = connections["default"]  # not the proxy to it
    wrapper.close()
    before = wrapper.settings_dict
    wrapper.settings_dict = before | {"HOST": "127.0.0.1", "PORT": str(free_port())}
    yield
    wrapper.close()
    wrapper.settings_dict = before
