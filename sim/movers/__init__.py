"""Movers: how an operand gets to a core. Plain DMAs stand in `cosoc.sim.work` and `cosoc.sim.lower.emit`; here is the
*cached* one, which fetches row by row through an L2 and a last-level cache.

`tile_table` says what each tile loads and stores, `touches` which requests and lines that makes, `cached` makes ops of
them. `cached_terms` states the same transfers in closed form, `fused_steps` cuts fused layers into steps,
`library_tiles` has the tiles of Gemmini's library, and `measured` runs single nests as the measured programs did.
"""
