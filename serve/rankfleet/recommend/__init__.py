"""Which tier or cascade is enough, what it loses, what it saves, and how many replicas it takes."""
