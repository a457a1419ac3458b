"""The Ray Serve application: router ingress, replica groups, telemetry. The only layer that imports Ray."""
