"""The proven optima of what can be solved exactly, or bounds on them."""
