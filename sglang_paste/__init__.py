"""A runtime extension of SGLang that makes self-hosted LLM agents finish sooner."""

__version__ = "0.1.0"
