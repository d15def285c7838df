"""From raw rows to answers, here or in the cloud, with and without a connection."""
