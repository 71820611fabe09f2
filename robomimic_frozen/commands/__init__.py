"""The commands of `robomimic-frozen`, a module each. `add` of each loads neither torch nor robomimic."""
