"""A fleet file as Kubernetes manifests."""
