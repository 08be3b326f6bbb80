"""A method and a network for fedserdiff in a package of another project."""
