"""The trainable part of the encoder."""

from __future__ import annotations

from torch import nn


def projection(feature_dim: int, emb_dim: int) -> nn.Sequential:
    """Features [B, feature_dim] -> embedding [B, emb_dim], two layers."""
    return nn.Sequential(nn.Linear(feature_dim, emb_dim), nn.LeakyReLU(), nn.Linear(emb_dim, emb_dim))
