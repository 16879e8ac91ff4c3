"""The tests."""

import pytest

pytest.register_assert_rewrite("tests.harness.materializing", "tests.harness.real_dcpy")
