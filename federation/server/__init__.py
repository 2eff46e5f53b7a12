"""The serving gateway: ports, call pipeline, watches, revocation and audit."""
