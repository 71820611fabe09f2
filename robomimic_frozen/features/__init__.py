"""HDF5 -> cached features: what identifies a feature, its extraction, the store, and the dataset that serves it."""
