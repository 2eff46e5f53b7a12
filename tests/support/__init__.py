"""Doubles and fixtures that more than one test file needs: real servers, certificates and databases."""
