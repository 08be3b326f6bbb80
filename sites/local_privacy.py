"""Local differential privacy: a round's change is clipped and gets Gaussian noise before it leaves the hospital.

The unit of protection is the hospital: the change may depend on all of its training patients, or on entirely different
ones. Its L2 norm is at most C, so its sensitivity is 2C. Everything made from the student later is post-processing of
what has already left: error maps without scans, the teacher and later hospitals' training spend no further budget.
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
"""File in the hospital's folder with the key that its noise is made from. Anybody who has the key can remove the noise.

The key is kept because the same message must get the same answer: an answer with new noise would be a further release.
"""


def simulated_key(config: Settings, site: str) -> bytes:
    """Return the key of a simulated hospital, which follows from the seed so that runs repeat and is no secret."""
    draws = generator(config.seed, "noise-key", site)
    return bytes(torch.randint(256, (KEY_BYTES,), generator=draws, dtype=torch.uint8).numpy())


def privatised(change: ArrayRecord, config: Settings, key: bytes) -> ArrayRecord:
    """Clip a weight change to an L2 norm of at most C = `dp_clip` and add noise of standard deviation 2C z.

    z is `dp_noise`. The noise is derived from the key and the change: the same change gets the same noise, and
    different changes get different noise. Two answers therefore reveal no more than with independent noise.

    Parameters
    ----------
    change : ArrayRecord
        Change from `wire.change_to_record`, float16; the result is float16 too.
    config : Settings
    key : bytes
        Key of 32 bytes.
    """
    ((name, array),) = change.items()
    exact = array.numpy()
    values = exact.astype(np.float64)
    norm = float(np.linalg.norm(values))
    clipped = values * min(1.0, config.privacy.dp_clip / norm) if norm > 0 else values
    own = hmac.digest(key, hashlib.sha256(exact.tobytes()).digest(), "sha256")
    noisy = clipped + noise_deviation(config) * _normal(own, len(values))
    with np.errstate(over="ignore"):  # values beyond float16 become infinite, and the guard then refuses the change
        return ArrayRecord({name: Array(noisy.astype(np.float16))})


def _normal(key: bytes, count: int) -> NDArray[np.float64]:
    """Draw standard normal numbers from AES in counter mode: seeing some of them does not reveal the others."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    uniform = (np.frombuffer(stream, "<u8") >> np.uint64(11)).astype(np.float64)  # 53 bits
    return np.asarray(ndtri((uniform + 0.5) / 2**53))
