"""The configuration of a run that indexes a flow."""

import pytest

from kp_platform.orchestration.flow_assets import IndexConfig
from kp_platform.settings import Settings


def test_limits_left_out_of_the_run_config_come_from_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KP_SLICE_ROWS", "123")
    limits = IndexConfig(bulk_rows=7).limits(Settings())
    assert (limits.slice_rows, limits.bulk_rows) == (123, 7)
