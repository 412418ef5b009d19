"""What leaves for a device: a point of a run that trained a network, in integers."""
