"""Embedding -> action: velocity networks, flow matching, and the algorithms that robomimic trains."""
