"""Pictures on disk: what a folder holds, whether it can be read, MindRecord files, the cache server."""
