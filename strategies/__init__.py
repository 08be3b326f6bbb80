"""What runs at the coordinator; it never imports `sites`."""

from fedserdiff import be_a_program

be_a_program()
