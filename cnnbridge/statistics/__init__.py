"""Second-order statistics of what a layer sees: R, exact or sampled, and its spectrum."""
