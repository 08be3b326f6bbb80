"""A method and a network for fedserdiff, as a package of others brings them."""
