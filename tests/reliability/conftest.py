"""No child process outlives its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reliability import children


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    children.kill_all()
