"""Training: networks, data, quantisation, gates, and the repair of what was found."""
