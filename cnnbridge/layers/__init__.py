"""A layer of a torch network as regressors: geometry, patches, capture, isolation."""
