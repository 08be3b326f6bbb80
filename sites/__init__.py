"""Code that runs inside a hospital. It never imports `strategies`."""

from fedserdiff import be_a_program

be_a_program()
