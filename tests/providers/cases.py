"""Helpers of the tests of both protocols."""

import pytest

from shared.retry import RetryPolicy
from tests.providers.conftest import SIMULATED

both = pytest.mark.parametrize("kind", SIMULATED)
ONCE = RetryPolicy(max_attempts=1)


def texts(count: int) -> list[str]:
    return [f"text number {index}" for index in range(count)]
