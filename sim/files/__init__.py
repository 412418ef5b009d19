"""Descriptions in and out: YAML with every error at its line, and the catalogue of what comes with cosoc."""
