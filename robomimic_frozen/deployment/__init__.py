"""Policies outside of training: in a loop of one's own, on a robot, in other formats, and on the Hugging Face hub."""
