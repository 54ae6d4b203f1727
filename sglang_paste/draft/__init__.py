"""What to draft, how much, and when not to: pure decisions."""
