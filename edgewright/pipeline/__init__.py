"""The pipeline as a user meets it: the request, the command line, and what one run did.

The library beside it knows nothing of this; ``flows/`` and ``tasks/`` do.
"""
