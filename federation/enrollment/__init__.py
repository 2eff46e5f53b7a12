"""Enrollment and renewal of certificates: the issuing side and the asking side."""
