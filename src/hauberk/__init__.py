"""hauberk."""
