"""From workload, mapping and SoC to a program: order, transfers, buffers."""
