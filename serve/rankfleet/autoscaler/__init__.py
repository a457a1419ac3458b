"""What runs in Serve's controller: how many replicas each group should have."""
