"""Wire formats: one file per format, one registry (docs/add-a-dialect.md)."""
