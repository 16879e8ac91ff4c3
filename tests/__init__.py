"""The tests."""

import pytest

pytest.register_assert_rewrite("tests.materializing", "tests.real_dcpy")
