"""Networks in integers, as chips compute them: layer by layer, and tile by tile as a run was scheduled."""
