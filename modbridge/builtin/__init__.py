"""Parts that need only torch: sources of files, stored vectors, and bridges."""
