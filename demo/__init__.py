"""A real agent on a real model, on stock SGLang and on ours: `scripts/demo`."""
