"""Diagnosis of a peer: checks every link of a call to the peer, and names the first broken link with its remedy."""
