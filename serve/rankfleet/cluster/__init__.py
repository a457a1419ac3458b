"""Everything that touches Ray: deployments, transport, launch, telemetry."""
