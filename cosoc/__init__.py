"""Simulate, calibrate and search mappings of neural networks on heterogeneous AI SoCs."""

__version__ = "0.1.0"
