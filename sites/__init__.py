"""What runs inside a hospital; it never imports `strategies`."""

import fedserdiff  # noqa: F401 - switches usage reports off, before Flower is imported
