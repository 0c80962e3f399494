"""Images on disk: folders, checks, splits, transforms, formats, the cache server."""
