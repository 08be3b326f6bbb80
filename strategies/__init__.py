"""What runs at the coordinator; it never imports `sites`."""

import fedserdiff  # noqa: F401 - switches usage reports off, before Flower is imported
