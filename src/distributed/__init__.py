"""Training one network with several processes."""
