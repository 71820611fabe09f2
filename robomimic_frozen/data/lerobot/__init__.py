"""LeRobot datasets, v3 (Parquet and mp4), read into HDF5 files of robomimic and written from them."""
