"""robosuite: which tasks there are, which OpenGL renders them, and environments that start the same and render when looked at."""
