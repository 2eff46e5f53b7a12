"""Messages of the Admin RPCs, built from the records of the gateway."""
