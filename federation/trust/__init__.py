"""Who may call: the gateway's own authority, enrollment, and keys at rest."""
