"""Errors, files and configuration: what every layer may use."""
