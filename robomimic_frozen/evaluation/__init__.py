"""Rollouts in parallel, and what they say about a policy."""
