"""A whole network looked at in one call: natural modes, bounds and curvature of every layer."""
