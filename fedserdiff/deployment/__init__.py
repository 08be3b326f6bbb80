"""A federation of real hospitals: what the coordinator and each of them hold, made once and read at every start."""
