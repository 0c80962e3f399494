"""The checksum of TensorFlow's checkpoints: CRC-32C (Castagnoli), RFC 3720 appendix B.4, in numpy.

A loop over bytes would take seconds for a network. So the bytes are cut into lanes of equal length, whose sums are
worked out side by side and then joined in pairs. That is possible because a checksum is linear over bits, with
exclusive or as the addition: the sum of two parts is that of the first with zeros behind it, plus that of the second.
"""
import numpy as np

POLYNOMIAL = 0x82F63B78  # with its bits reversed
START = 0xFFFFFFFF
MOST_LANES, LANE_BYTES = 12, 4  # powers of 2: the number of lanes, and the least length of one
BITS = np.arange(32, dtype=np.uint32)


def crc32c(content: bytes | np.ndarray) -> int:
    """The checksum of bytes."""
    values = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content.reshape(-1).view(np.uint8)
    lanes = 1 << min(MOST_LANES, max(0, len(values).bit_length() - LANE_BYTES))
    length = -(-len(values) // lanes)
    # Zeros in front of the bytes change nothing, as long as the sum begins with 0.
    filled = np.concatenate([np.zeros(lanes * length - len(values), np.uint8), values])
    sums = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(filled.reshape(lanes, length).T):
        sums = _step(sums, column)
    zeros = _after_zeros(length)
    while len(sums) > 1:
        sums = _shift(sums[::2], zeros) ^ sums[1::2]
        zeros = _shift(zeros, zeros)
    start = _shift(np.array([START], np.uint32), _after_zeros(len(values)))
    return int(sums[0] ^ start[0]) ^ START


def masked_crc32c(content: bytes | np.ndarray) -> int:
    """The checksum as it is stored: rotated, plus a constant (tensorflow/core/lib/hash/crc32c.h)."""
    checksum = crc32c(content)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> np.ndarray:
    """What each value of a byte adds to a sum."""
    sums = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        sums = sums >> np.uint32(1) ^ np.where(sums & np.uint32(1), np.uint32(POLYNOMIAL), np.uint32(0))
    return sums


TABLE = _table()


def _step(sums: np.ndarray, byte: np.ndarray) -> np.ndarray:
    return TABLE[sums.astype(np.uint8) ^ byte] ^ sums >> np.uint32(8)


def _after_zeros(length: int) -> np.ndarray:
    """What each of a sum's 32 bits becomes behind `length` zero bytes."""
    result = np.uint32(1) << BITS
    power = _step(result, np.zeros(32, np.uint8))
    while length:  # by squaring
        if length & 1:
            result = _shift(result, power)
        power = _shift(power, power)
        length >>= 1
    return result


def _shift(sums: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """Sums behind zeros: each is the sum of what its bits become."""
    is_set = (sums[:, None] >> BITS & np.uint32(1)).astype(bool)
    return np.bitwise_xor.reduce(np.where(is_set, zeros, np.uint32(0)), axis=1)
