"""robomimic's own scripts with this package in them: its registration and patches, configs, training runs and rollouts."""
