"""The laws of docs/rules.md and the design, each with tests that fail when it is broken."""

import pytest

pytest.register_assert_rewrite("amp_pipeline_tests.laws.driver", "amp_pipeline_tests.laws.truth")
