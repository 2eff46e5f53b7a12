"""The verbs of the federation service, shared by server and sessions."""
