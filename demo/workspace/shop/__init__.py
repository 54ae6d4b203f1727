"""A small shop: what the demo's agent works on."""
