"""Campaigns: many simulations and searches from one plan, over the processes of a machine or of a cluster."""
