"""The audit trail of the serving gateway."""
