"""Movers: how an operand gets to a core. Each states its transfers twice: as ops, and in closed form.

- A DMA brings whole tiles: `dma` writes its ops, `dma_terms` has their bytes, set-ups and pieces.
- A *cached* mover fetches row by row through an L2 and a last-level cache: `tile_table` says what each tile loads and
  stores, `touches` which requests and lines that makes, `cached` writes their ops; `cached_terms` states them in closed
  form, `fused_steps` cuts fused layers into steps, `library_tiles` has the tiles of Gemmini's library, and `measured`
  runs single nests as the measured programs did.

A DMA's ops and the cores' go through `writer`, which has the units and servers of the SoC; arrays splice theirs into
the same program.
"""
