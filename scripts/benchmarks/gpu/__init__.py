"""What a GPU does of this project's work in minutes, and of its peers'."""
