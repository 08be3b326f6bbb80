"""The package's commands. A simulation connects hospitals and coordinator here."""

from fedserdiff import be_a_program

be_a_program()
