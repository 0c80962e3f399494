"""A page to try a model on: served with an HTTP interface, or as a folder that runs in the browser alone."""
