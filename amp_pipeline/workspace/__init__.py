"""The pipeline's own store between assets: what is in it, where, and in which form. Layout: docs/layout.md."""
