"""Devices, processes, memory and signals."""
