"""The demo: two gateways on one machine."""
