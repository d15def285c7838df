"""Release repositories: static files that any web server can serve."""
