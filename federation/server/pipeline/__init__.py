"""The pipeline of one served call: identity, authorization, rate limit, handler."""
