"""DER++ on synthetic scans at the coordinator: a bank of images, and the student that is to be kept on them."""

from strategies.image_replay import ImageReplay
from strategies.teaching import TeachingStream


class Der(ImageReplay, TeachingStream):
    """Keep images as image replay does, and send each hospital the student of the stage in which they were made."""

    def becomes_teacher(self) -> bool:
        """Freeze the student of each stage that is asked for images."""
        return self.consolidates()
