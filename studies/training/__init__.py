"""Images, networks, SGD and probes that several studies share."""
