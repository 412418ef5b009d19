"""Readers of networks from other tools' formats. Each imports its tool only when called."""
