"""Live, scoped reads between two gateways over mutual TLS."""
