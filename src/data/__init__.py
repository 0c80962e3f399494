"""Images on disk and what is made of them: folders, checks, splits, transforms, formats, the cache server."""
