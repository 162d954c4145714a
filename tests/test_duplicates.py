"""Near-copies are found, all of them and fast; images that merely look similar to a hash are not."""

import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.duplicates import alike, near_pairs
from pipeline.errors import DataError
from pipeline.images import decode, dhash, thumbnail
from tests.test_images import encode, picture


def brute(hashes: list[str], bits: int) -> list[tuple[int, int]]:
    numbers = [int(text, 16) for text in hashes]
    return [
        (i, j)
        for i in range(len(numbers))
        for j in range(i + 1, len(numbers))
        if (numbers[i] ^ numbers[j]).bit_count() <= bits
    ]


def random_hashes(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)


def flip(codes: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    """Each row with 0 to ``most`` random bits flipped."""
    bits = np.unpackbits(codes, axis=1)
    for row in bits:
        row[rng.choice(256, rng.integers(0, most + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def texts(codes: np.ndarray) -> list[str]:
    return [row.tobytes().hex() for row in codes]


@pytest.mark.parametrize("bits", [0, 1, 7, 16, 40])
def test_every_pair_within_the_distance_is_found_and_no_other(bits: int) -> None:
    rng = np.random.default_rng(bits)
    codes = random_hashes(120, bits)
    hashes = texts(np.concatenate([codes, flip(codes, rng, 60), codes[:5]]))
    assert near_pairs(hashes, bits) == brute(hashes, bits)


def test_hashes_that_share_all_bands_are_compared_all_with_all() -> None:
    """A film of one scene: the bands don't separate, the answer is still complete."""
    rng = np.random.default_rng(3)
    hashes = texts(flip(np.repeat(random_hashes(1), 150, axis=0), rng, 20))
    assert near_pairs(hashes, 16) == brute(hashes, 16)


def test_few_images_have_no_pairs() -> None:
    assert near_pairs([], 10) == []
    assert near_pairs(["00" * 32], 10) == []


def test_a_hash_of_another_length_is_an_error() -> None:
    with pytest.raises(DataError, match="64 hex digits"):
        near_pairs(["00" * 32, "00"], 10)
    with pytest.raises(DataError, match="256"):
        near_pairs(["00" * 32] * 2, 10, [b"", b""])


def test_copies_are_found_whatever_their_size_encoding_or_exposure() -> None:
    images = []
    for seed in range(20):
        original = picture(320, 240, seed)
        images += [
            original,
            decode(encode(original.resize((160, 120)), "JPEG", quality=60)).image,
            original.resize((500, 375), Image.Resampling.BICUBIC),
            original.point([value * 7 // 10 for value in range(256)] * 3),
        ]
    pairs = near_pairs([dhash(i) for i in images], 16, [thumbnail(i) for i in images])
    assert {(i // 4, j // 4) for i, j in pairs} == {(k, k) for k in range(20)}
    assert len(pairs) >= 20 * 6 - 4


def test_flat_images_that_share_a_hash_are_told_apart_by_thumbnails() -> None:
    """Black and white areas as on circuit boards: the difference hash sees flat ground alone."""

    def board(spots: int) -> Image.Image:
        image = Image.new("RGB", (96, 96), "black")
        ImageDraw.Draw(image).rectangle((0, 0, 95, 6 * spots), fill="white")
        return image

    one, other = board(3), board(9)
    assert near_pairs([dhash(one), dhash(other)], 16) == [(0, 1)]
    assert near_pairs([dhash(one), dhash(other)], 16, [thumbnail(one), thumbnail(other)]) == []
    assert alike(thumbnail(one), thumbnail(one))
    black, white = Image.new("RGB", (64, 64), "black"), Image.new("RGB", (64, 64), "white")
    assert not alike(thumbnail(black), thumbnail(white))
    assert alike(thumbnail(black), thumbnail(Image.new("RGB", (50, 64), "black")))


def test_without_a_thumbnail_the_hash_decides() -> None:
    code = dhash(picture())
    assert near_pairs([code, code], 0, [thumbnail(picture()), None]) == [(0, 1)]


@pytest.mark.slow
def test_a_hundred_thousand_hashes_take_seconds() -> None:
    codes = random_hashes(98_000)
    near = flip(codes[:2_000], np.random.default_rng(1), 16)
    started = time.process_time()
    pairs = near_pairs(texts(np.concatenate([codes, near])), 16)
    assert pairs == [(k, 98_000 + k) for k in range(2_000)]
    assert time.process_time() - started < 20
