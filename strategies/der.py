"""DER++ on synthetic scans at the coordinator: a bank of images, and a teacher for them."""

from strategies.image_replay import ImageReplay
from strategies.teaching import TeachingStream


class Der(ImageReplay, TeachingStream):
    """Keep images as image replay does, and send each hospital the student of the stage in which they were made."""

    def becomes_teacher(self) -> bool:
        """Return whether the stage's student becomes the teacher: if the stage's participants are asked for images."""
        return self.consolidates()
