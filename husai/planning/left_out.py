"""What a run trains less where its configuration leaves a stage out."""

from __future__ import annotations

from typing import Any

LEFT_OUT: dict[str, dict[str, Any]] = {
    "baseline": {"baseline": ([], [])},
    "ablations": {"ablations": ([], [])},
    "calibration": dict.fromkeys(
        ("calibration_search", "calibration_retrain", "l0_matched"), ([], [])
    ),
    "consistency": {"consistency": []},
    "frontier": {"frontier": []},
    "scaling": {"scaling": []},
}
"""What :class:`Plan` holds of a stage that the configuration's ``stages`` leaves out."""
