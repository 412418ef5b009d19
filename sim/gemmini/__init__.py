"""Gemmini: from a mapping to the Program of its cpu, load, execute and store units.

`decode` reads a mapping into a loop nest of tiles, `memory` walks the addresses that the tiles touch, `lower` puts both
together. What a tile costs stands in `cosoc.sim.cores.systolic`, the figures in socs/gemmini_firesim.yaml.
"""
