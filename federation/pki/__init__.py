"""X.509 certificates, tokens and sealing, without database and network."""
