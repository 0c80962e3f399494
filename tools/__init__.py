"""Commands around training: data sets, weights."""
