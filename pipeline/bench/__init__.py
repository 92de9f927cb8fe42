"""The measurements behind every speed claim."""
