"""What knows nothing of robots: files and URLs, HDF5, this machine, and maps over workers that may die."""
