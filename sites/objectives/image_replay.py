"""Image replay: the student trains on synthetic scans with masks from a diffusion model of a hospital's images.

It is the baseline of usual generative replay (such as arXiv 2406.19796 and 2406.18037), which shares pictures of brains
instead of SER-Diff's error maps.
"""

import torch

from fedserdiff.diffusion.image_generator import ImageGenerator
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.precision import gradient_scaler
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods.image_replay import ImageReplaySettings
from fedserdiff.seeding import generator
from fedserdiff.wire import SYNTHETIC_IMAGES, Memory
from sites.objectives.base import Objective
from sites.sampling import Sampling
from sites.step import rate_at, set_rates
from sites.training_set import Batch, TrainingSet


class ImageReplayObjective(Objective):
    """L = L_seg on the hospital's own batch + λ · L_seg on synthetic images. With λ = 0 it is exactly L_seg.

    The image model is trained in the hospital for as many steps as a stage has, and stays there.
    """

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Seed the draws of synthetic images and their noise."""
        self._replay = generator(self.config.seed, "replay", site, stage, server_round)
        device = training_set.device
        self._noise = generator(self.config.seed, "replay-noise", site, stage, server_round, device=device)

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the batch's lesson and, if there are synthetic images, ``replay`` with a random draw of them."""
        lessons = super().lessons(batch, noise)
        kept, samples = self.memory.get(SYNTHETIC_IMAGES), self.config.replay.batch_size
        if kept is not None and ImageReplaySettings.of(self.config.method).lambda_kd > 0 and samples > 0:
            drawn = torch.randint(0, len(kept["images"]), (samples,), generator=self._replay)
            image, truth = kept["images"][drawn].to(batch.image), kept["masks"][drawn].to(batch.truth)
            lessons["replay"] = Lesson(image, truth, self._noise)
        return lessons

    def consolidate(self, student: Student, training_set: TrainingSet, site: str, stage: int) -> Memory:
        """Train the hospital's image model; return images (N, 4, *grid), float16, with masks (N, 3, *grid), uint8."""
        config = self.config
        draws = generator(config.seed, "image-generator", site, stage)
        noise = generator(config.seed, "image-generator-noise", site, stage, device=training_set.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.initial_seed())
            model = ImageGenerator(config).to(training_set.device)
        sampling = Sampling(training_set, config, "image-generator", site, stage)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate, fused=True)
        scaler = gradient_scaler(config.network.precision, training_set.device)
        for step in range(sampling.steps):
            set_rates(optimizer, [config.training.learning_rate], rate_at(step, sampling.steps))
            batch = training_set.batch(sampling.items(step, draws))
            loss = model.loss(batch.image, batch.truth, noise)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        model.eval()
        counts = [len(part) for part in torch.arange(config.replay.shared_maps).split(2 * config.training.batch_size)]
        samples = [model.sample(count, noise) for count in counts]
        images = torch.cat([image for image, _ in samples]).half()
        masks = torch.cat([mask for _, mask in samples]).to(torch.uint8)
        return {SYNTHETIC_IMAGES: {"images": images, "masks": masks}}
