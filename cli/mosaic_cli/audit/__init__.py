"""The audit command."""
