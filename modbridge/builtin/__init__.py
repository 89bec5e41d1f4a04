"""Parts that need only torch: sources of files, stored vectors, and the bridges that are a few statistics."""
