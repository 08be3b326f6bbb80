"""A federation of real hospitals: folders for the coordinator and each hospital, written once, read at each start."""
