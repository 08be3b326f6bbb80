"""What runs inside a hospital; it never imports `strategies`."""

from fedserdiff import be_a_program

be_a_program()
