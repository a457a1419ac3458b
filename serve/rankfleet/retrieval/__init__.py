"""First stage: corpora on disk, and an index that finds candidates for a query."""
