"""Local differential privacy: a round's change is clipped and gets Gaussian noise before it leaves the hospital.

What is protected is the hospital: the change may depend on all of its training patients, or on others altogether, and
has an L2 norm of at most C, so that its sensitivity is 2C. All that is made of the student later is made of what left
already: its error maps without scans, the teacher's release, every later hospital's training spend nothing more.
"""

import hashlib
import hmac

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from scipy.special import ndtri

from fedserdiff.privacy.gaussian import noise_deviation
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from sites.secret_key import KEY_BYTES

NOISE_KEY_FILE = "noise.key"
"""In the hospital's folder: what its noise is drawn from. Whoever has it can take the noise off again.

It is kept because the same message has to get the same answer: an answer with noise drawn anew is one more.
"""


def simulated_key(config: Settings, site: str) -> bytes:
    """Return the key of a simulated hospital: from the seed, so that a run repeats, and therefore no secret."""
    draws = generator(config.seed, "noise-key", site)
    return bytes(torch.randint(256, (KEY_BYTES,), generator=draws, dtype=torch.uint8).numpy())


def privatised(change: ArrayRecord, config: Settings, key: bytes) -> ArrayRecord:
    """Return a change of weights scaled to an L2 norm of at most C = `dp_clip`, with noise of standard deviation 2C z.

    z is `dp_noise`. The noise follows from the key and the change: the same change gets the same noise, and any other
    change noise of its own, so that no two answers tell more than they would with independent noise.

    Parameters
    ----------
    change : ArrayRecord
        From `wire.change_to_record`, of float16; so is what is returned.
    config : Settings
    key : bytes
        Of 32 bytes.
    """
    ((name, array),) = change.items()
    exact = array.numpy()
    values = exact.astype(np.float64)
    norm = float(np.linalg.norm(values))
    clipped = values * min(1.0, config.privacy.dp_clip / norm) if norm > 0 else values
    own = hmac.digest(key, hashlib.sha256(exact.tobytes()).digest(), "sha256")
    noisy = clipped + noise_deviation(config) * _normal(own, len(values))
    with np.errstate(over="ignore"):  # what is beyond float16 becomes infinite, and does not leave
        return ArrayRecord({name: Array(noisy.astype(np.float16))})


def _normal(key: bytes, count: int) -> NDArray[np.float64]:
    """Draw standard normal numbers from AES in counter mode: no one who sees some of them can tell the others."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    uniform = (np.frombuffer(stream, "<u8") >> np.uint64(11)).astype(np.float64)  # 53 bits
    return np.asarray(ndtri((uniform + 0.5) / 2**53))
