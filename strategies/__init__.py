"""Code that runs at the coordinator. It never imports `sites`."""

from fedserdiff import be_a_program

be_a_program()
