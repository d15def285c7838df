"""One reader a format, each run in a child process of its own; `edgewright.export.stored` calls them."""
