"""Images come standardised and the same every time; what is wrong is said in one line."""

import contextlib
import io
import os

import numpy as np
import pytest
from PIL import Image

from studies.engine.errors import UserError
from studies.training import images
from studies.training.images import Images, load, tensors


def picture(path, rng, size=(20, 12), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        picture(tmp_path / "cats" / f"{i}.png", rng)
        picture(tmp_path / "dogs" / f"{i}.png", rng, size=(9, 31), mode="L")
    return tmp_path


def test_mnist_is_balanced_standardised_and_seeded():
    first = load("mnist5k", limit=600, seed=3)
    assert first.images.shape == (600, 1, 28, 28)
    assert first.images.dtype == np.float32
    assert first.labels.dtype == np.int64
    assert abs(first.images.mean()) < 1e-4
    assert first.images.std() == pytest.approx(1, abs=1e-4)
    # shipped sorted by digit; a draw must not be
    assert np.bincount(first.labels, minlength=10).min() > 30
    again, other = load("mnist5k", limit=600, seed=3), load("mnist5k", limit=600, seed=4)
    np.testing.assert_array_equal(again.images, first.images)
    assert not np.array_equal(other.labels, first.labels)


def test_image_size():
    assert load("mnist5k", limit=20, image_size=16).images.shape == (20, 1, 16, 16)


def test_folder_of_mixed_shapes_and_modes(folder):
    data = load(f"folder:{folder}", image_size=16)
    assert data.images.shape == (8, 3, 16, 16)
    assert data.classes == ("cats", "dogs")
    assert sorted(data.labels) == [0] * 4 + [1] * 4
    np.testing.assert_allclose(data.images.mean(axis=(0, 2, 3)), 0, atol=1e-5)


def test_folder_limit_and_default_size(folder):
    assert load(f"folder:{folder}", limit=3).images.shape == (3, 3, 32, 32)


def test_a_picture_is_cropped_not_squeezed(tmp_path):
    # black flanks, white middle: a central crop of the middle is white throughout
    wide = np.zeros((16, 48), dtype=np.uint8)
    wide[:, 16:32] = 255
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(wide if name == "a" else 0 * wide).save(tmp_path / name / "0.png")
    data = load(f"folder:{tmp_path}", image_size=16)
    white = data.images[data.labels == 0]
    np.testing.assert_allclose(white, white.max())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("mnist", "unknown data 'mnist'"),
        ("folder:", "needs a path"),
        ("folder:/no/such/place", "there is no folder /no/such/place"),
        ("cifar10", "--data-root"),
    ],
)
def test_what_is_not_there(data, message):
    with pytest.raises(UserError, match=message):
        load(data)


def test_cifar10_root_without_cifar10(tmp_path):
    with pytest.raises(UserError, match=f"CIFAR-10 is not in {tmp_path}"):
        load("cifar10", tmp_path)


def test_folder_without_classes(tmp_path):
    with pytest.raises(UserError, match="one folder of images per class"):
        load(f"folder:{tmp_path}")


def test_folder_with_an_empty_class(folder):
    (folder / "eels").mkdir()
    with pytest.raises(UserError, match="eels"):
        load(f"folder:{folder}")


def test_folder_with_one_class(tmp_path):
    picture(tmp_path / "cats" / "0.png", np.random.default_rng(0))
    with pytest.raises(UserError, match="single class 'cats'"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_corrupt_image_is_named(folder, damage):
    victim = folder / "dogs" / "2.png"
    whole = victim.read_bytes()
    victim.write_bytes({"text": b"no picture", "truncated": whole[:60], "empty": b""}[damage])
    with pytest.raises(UserError, match=r"dogs/2\.png cannot be read"):
        load(f"folder:{folder}")


def test_what_is_no_regular_file(folder):
    os.mkfifo(folder / "cats" / "9.png")
    with pytest.raises(UserError, match=r"cats/9\.png cannot be read: it is not a regular file\.$"):
        load(f"folder:{folder}")


def test_links_are_followed_once(folder):
    whole = load(f"folder:{folder}", image_size=8)
    (folder / "cats" / "loop").symlink_to(".")
    (folder / "dogs" / "loop").symlink_to("..")
    linked = load(f"folder:{folder}", image_size=8)
    assert len(whole) == 8
    assert len(linked) == 8 + 4  # the dogs' link leads to the cats, whom it is no loop to count


@pytest.mark.parametrize("kind", ["GIF", "DDS", "SPIDER", "TGA", "ICO"])
def test_formats_that_no_suffix_asks_for_are_not_decoded(folder, kind):
    picture = Image.new("F" if kind == "SPIDER" else "RGB", (16, 16))
    file = io.BytesIO()  # saved under a name, SPIDER takes the suffix for itself
    picture.save(file, format=kind)
    (folder / "cats" / "0.png").write_bytes(file.getvalue())
    with pytest.raises(UserError, match=r"cats/0\.png cannot be read: cannot identify"):
        load(f"folder:{folder}")


def test_an_image_too_large_to_decode(folder, monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 99)
    with pytest.raises(UserError, match=r"cannot be read: it has .* pixels; at most 99 are taken"):
        load(f"folder:{folder}")


def test_damaged_images_end_in_one_sentence(folder):
    """Bytes of every format, cut and overwritten at random places."""
    rng = np.random.default_rng(0)
    victim = folder / "cats" / "0.png"
    for kind in images.FORMATS:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(victim, format=kind)
        whole = victim.read_bytes()
        for _ in range(20):
            bytes_ = np.frombuffer(whole, dtype=np.uint8).copy()
            bytes_[rng.integers(len(whole), size=4)] = rng.integers(256, size=4)
            victim.write_bytes(bytes_[: rng.integers(1, len(whole) + 1)].tobytes())
            with contextlib.suppress(UserError):
                load(f"folder:{folder}", image_size=8)


def test_flat_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), "grey").save(tmp_path / name / "0.png")
    with pytest.raises(UserError, match="flat colour"):
        load(f"folder:{tmp_path}")


def test_impossible_limit_and_size():
    with pytest.raises(UserError, match="limit must be at least 1"):
        load("mnist5k", limit=0)
    with pytest.raises(UserError, match="at least 8 pixels"):
        load("mnist5k", image_size=4)


def test_tensors_are_the_loaded_images_read_once():
    chosen = Images(limit=50, size=8, seed=1)
    x, y, classes = tensors(chosen)
    found = load("mnist5k", limit=50, image_size=8, seed=1)
    np.testing.assert_array_equal(x.numpy(), found.images)
    np.testing.assert_array_equal(y.numpy(), found.labels)
    assert classes == 10
    assert tensors(Images(limit=50, size=8, seed=1))[0] is x
    np.testing.assert_array_equal(tensors(chosen, badly_scaled=True)[0].numpy(), 10 * found.images)


def test_badly_scaled_channels_span_two_decades(folder):
    chosen = Images(data=f"folder:{folder}", limit=8, size=8)
    ratio = tensors(chosen, badly_scaled=True)[0] / tensors(chosen)[0]
    np.testing.assert_allclose(ratio.nanmean(dim=(0, 2, 3)).numpy(), [0.1, 1, 10], rtol=1e-5)
