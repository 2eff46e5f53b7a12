"""Shared test doubles and fixtures: real servers, certificates, databases and processes."""
