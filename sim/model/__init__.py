"""What is described: workloads, SoCs, clusters, mappings, and where tensors live."""
