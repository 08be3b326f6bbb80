"""The command lines that the package brings; a simulation joins hospitals and coordinator here."""

from fedserdiff import be_a_program

be_a_program()
