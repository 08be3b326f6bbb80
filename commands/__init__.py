"""The command lines that the package brings; a simulation joins hospitals and coordinator here."""
