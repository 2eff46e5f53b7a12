"""The serving side: identity, authorisation and answers, call by call."""
