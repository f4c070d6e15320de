"""The tables of a delivery, loaded from its bucket into a database: what is told in docs/tables.md, "Load"."""
