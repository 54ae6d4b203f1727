"""What the rows of a replay come to: numbers with intervals, a table, and a page with plots."""

from bench.replay.report.summary import summary

__all__ = ["summary"]
