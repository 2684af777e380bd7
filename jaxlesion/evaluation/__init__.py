"""From predictions to metrics, intervals, thresholds and calibration."""
