"""What became of an experiment: events read, arms compared, a verdict in words."""
