"""The REST face: one module a resource."""
