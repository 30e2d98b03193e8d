"""GeoTIFF and GeoJSON: read, written, read back; where things lie on the map; what does not fit together is said."""

import builtins
import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.formats import open_data, recognise
from nuriwake.data.geotiff_place import Place, read_place, reference_system, ring_area
from nuriwake.data.images import read_image
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
burn = pytest.importorskip("rasterio.features")
warp = pytest.importorskip("rasterio.warp")

SIZE = (40, 60)
SPACE = LabelSpace(("background", "road", "house"))
UTM = rasterio.Affine(0.5, 0, 400000, 0, -0.5, 3950000)
DEGREES = rasterio.Affine(1e-5, 0, 139.7, 0, -1e-5, 35.6)
TURNED = rasterio.Affine(0.4, 0.3, 400000, 0.3, -0.4, 3950000)
PLACES = {"utm": ("EPSG:32654", UTM), "degrees": ("EPSG:4326", DEGREES), "turned": ("EPSG:32654", TURNED),
          "tokyo": ("EPSG:30169", rasterio.Affine(0.25, 0, -9000, 0, -0.25, -38000)),
          "feet": ("EPSG:2227", rasterio.Affine(1, 0, 6e6, 0, -1, 2.1e6)),
          "map": (None, rasterio.Affine(2, 0, 10, 0, -2, 90)), "none": (None, None)}  # fmt: skip


def tiff(path, bands, place="utm", **profile):
    path.parent.mkdir(parents=True, exist_ok=True)
    crs, transform = PLACES[place] if isinstance(place, str) else place
    bands = bands[None] if bands.ndim == 2 else bands
    where = {} if transform is None else {"crs": crs, "transform": transform}
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **where, **profile) as file:
        file.write(bands)
    return path


def picture(channels=3, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(1, 250, (channels, *SIZE)).astype(dtype)


def blobs(seed=0, classes=3):
    noise = np.random.default_rng(seed).random((SIZE[0] // 4, SIZE[1] // 4))
    return np.kron((noise * classes).astype(np.uint8), np.ones((4, 4), np.uint8))


def folder(root, place="utm", count=4, labels=None, mask_profile=None, **profile):
    for i in range(count):
        tiff(root / f"images/t{i}.tif", picture(seed=i), place, **profile)
        tiff(root / f"masks/t{i}.tif", blobs(i) if labels is None else labels, place, **(mask_profile or {}))
    (root / "classes.json").write_text(json.dumps({"classes": SPACE.names}))
    return root


def features(path):
    return json.loads(path.read_text())["features"]


def objects(*boxes, ids=None, classes=("cell", "debris")):
    masks = RunMasks.from_boxes(np.array(boxes, float).reshape(-1, 4), SIZE)
    labels = np.arange(len(boxes), dtype=np.int32) % len(classes)
    space = LabelSpace(classes, (True,) * len(classes))
    return Instances(masks, labels, space, ids=None if ids is None else np.array(ids))


def first(data):
    return data.read(next(record for part in data.splits.values() for record in part))


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw", "jpeg", "zstd"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize(
    "kind", [(3, "uint8"), (4, "uint8"), (3, "uint16"), (5, "uint16"), (3, "float32"), (6, "float32")]
)
def test_every_compression_and_layout_is_read_as_gdal_reads_it(tmp_path, compress, interleave, kind):
    channels, dtype = kind
    if compress == "jpeg" and dtype != "uint8":
        pytest.skip("JPEG holds 8 bits")
    values = np.cumsum(picture(channels) % 3, axis=2).astype(dtype)
    predictor = {"predictor": 3 if dtype == "float32" else 2} if compress in ("deflate", "lzw", "zstd") else {}
    path = tiff(tmp_path / "a.tif", values, compress=compress, interleave=interleave, tiled=True, blockxsize=32, blockysize=32,
                bigtiff="yes", **predictor)  # fmt: skip
    with rasterio.open(path) as file:
        expected = np.moveaxis(file.read(), 0, 2)
    found = read_image(path)
    assert found.dtype == expected.dtype
    assert np.abs(found.astype(np.float64) - expected).max() <= (8 if compress == "jpeg" else 0)


def test_without_gdal_what_opencv_would_garble_is_refused(tmp_path, monkeypatch):
    path = tiff(tmp_path / "a.tif", picture(3, np.float32), compress="lzw", interleave="band")
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    with pytest.raises(UserError, match=r"a\.tif: the way in which this TIFF is compressed needs another library"):
        read_image(path)


def test_images_and_masks_with_spacing(tmp_path):
    data = open_data(folder(tmp_path))
    assert (data.format, data.space.names) == ("geotiff", SPACE.names)
    assert list(recognise(tmp_path)) == ["geotiff"]
    sample = first(data)
    assert sample.spacing == (0.5, 0.5)
    number = int(sample.name[1:])
    np.testing.assert_array_equal(sample.target.labels, blobs(number))
    np.testing.assert_array_equal(sample.image, np.moveaxis(picture(seed=number), 0, 2))
    assert any("Pixels are 0.5x0.5 metre" in note and "EPSG:32654" in note for note in data.notes)


def test_degrees_and_no_georeference_keep_pixels_and_say_so(tmp_path):
    data = open_data(folder(tmp_path / "a", "degrees"))
    assert first(data).spacing == (1, 1)
    assert any("4 of 4 images are in degrees" in note for note in data.notes)
    plain = folder(tmp_path / "b", "none")
    assert list(recognise(plain)) == ["mask_folder"]
    data = open_data(plain, format="geotiff")
    assert first(data).spacing == (1, 1)
    assert any("4 of 4 images have no georeference" in note for note in data.notes)


def test_spacing_of_the_description_wins(tmp_path):
    folder(tmp_path)
    (tmp_path / "data.yaml").write_text("spacing: [3, 2]\n")
    assert first(open_data(tmp_path / "data.yaml")).spacing == (3, 2)


def test_nodata_of_masks_and_of_images_is_ignored(tmp_path):
    labels = blobs() % 3
    labels[:4] = 9
    image = picture()
    image[:, 10:20, 5:9] = 0
    image[0, 30:, :] = 0  # one band alone is dark, not missing
    for i in range(4):
        tiff(tmp_path / f"images/t{i}.tif", image, nodata=0)
        tiff(tmp_path / f"masks/t{i}.tif", labels, nodata=9)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": SPACE.names}))
    data = open_data(tmp_path)
    expected = labels.copy()
    expected[:4], expected[10:20, 5:9] = IGNORE, IGNORE
    np.testing.assert_array_equal(first(data).target.labels, expected)
    text = " ".join(data.notes)
    assert "The masks declare 9 as nodata: it is ignored." in text
    assert "4 of 4 images declare pixels as nodata (all bands); they are ignored in the truth." in text


@pytest.mark.parametrize("nodata", [float("nan"), -9999.0])
def test_float_images_have_0_where_they_declare_nodata(tmp_path, nodata):
    image = picture(dtype=np.float32)
    image[:, :5] = nodata
    for i in range(2):
        tiff(tmp_path / f"images/t{i}.tif", image, nodata=nodata)
        tiff(tmp_path / f"masks/t{i}.tif", blobs())
    sample = first(open_data(tmp_path))
    assert (sample.image[:5] == 0).all()
    assert (sample.target.labels[:5] == IGNORE).all()
    assert (sample.target.labels[5:] != IGNORE).all()


@pytest.mark.parametrize(
    "other", [("EPSG:32653", UTM), ("EPSG:32654", rasterio.Affine(0.5, 0, 400001, 0, -0.5, 3950000)), PLACES["degrees"]]
)
def test_a_mask_elsewhere_on_the_map_is_refused(tmp_path, other):
    folder(tmp_path)
    tiff(tmp_path / "masks/t2.tif", blobs(), other)
    with pytest.raises(
        UserError, match=r"t2\.tif: the mask lies elsewhere on the map than its image .* 1 of 4 masks do"
    ):
        open_data(tmp_path)


@pytest.mark.parametrize("count", [1, 3])
def test_masks_of_float_with_nan_for_nodata_are_refused_by_what_they_hold(tmp_path, count):
    """GIS writes them so: as many NaN as masks were different values, and one was no whole number."""
    for i in range(count):
        tiff(tmp_path / "images" / f"{i}.tif", picture(seed=i))
        tiff(tmp_path / "masks" / f"{i}.tif", blobs(i).astype(np.float32), nodata=float("nan"))
    with pytest.raises(UserError, match="a mask holds whole numbers, found float32"):
        open_data(tmp_path)


@pytest.mark.parametrize("transform", [(0, 0, 5, 0, 0, 7), (1, 2, 5, 2, 4, 7), (float("nan"), 0, 5, 0, -1, 7)])
def test_a_georeference_without_an_area_is_refused(tmp_path, transform):
    place = ("EPSG:32654", rasterio.Affine(*transform))
    for kind, bands in (("images", picture()), ("masks", blobs())):
        tiff(tmp_path / kind / "a.tif", bands, place)
    with pytest.raises(UserError, match=r"a\.tif: its georeference .* gives pixels no area on the map"):
        open_data(tmp_path, format="geotiff")


def test_more_numbers_than_16_bits_name_the_way(tmp_path):
    tiff(tmp_path / "images" / "a.tif", picture())
    tiff(tmp_path / "masks" / "a.tif", np.linspace(0, 70000, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint32))
    with pytest.raises(UserError, match=r"found 0\.\.70000; more objects than that are read from their polygons"):
        open_data(tmp_path)


def test_masks_that_differ_in_nodata_are_refused(tmp_path):
    folder(tmp_path)
    tiff(tmp_path / "masks/t1.tif", blobs(), nodata=255)
    tiff(tmp_path / "masks/t2.tif", blobs(), nodata=0)
    with pytest.raises(UserError, match="different values as nodata"):
        open_data(tmp_path)


@pytest.mark.parametrize("place", PLACES)
def test_maps_come_back_with_their_place_and_polygons_lie_where_the_mask_is(tmp_path, place):
    data = open_data(folder(tmp_path / "a", place), format="geotiff", val_share=0)
    samples = [data.read(record) for record in data.splits["train"]]
    written = write_data(samples, tmp_path / "b", format="geotiff", space=data.space)
    assert not any("IoU" in note for note in written.notes)
    again = open_data(tmp_path / "b", val_share=0)
    assert (again.format, again.space) == ("geotiff", data.space)
    for before, after in zip(samples, [again.read(record) for record in again.splits["train"]], strict=True):
        np.testing.assert_array_equal(before.image, after.image)
        np.testing.assert_array_equal(before.target.labels, after.target.labels)
        assert before.spacing == after.spacing
        assert read_place(before.source) == read_place(after.source)
    mask = tmp_path / "b/masks/train/t0.tif"
    crs, transform = PLACES[place]
    with rasterio.open(mask) as file:
        assert file.nodata == IGNORE
        assert (file.crs, file.transform) == (
            crs and rasterio.CRS.from_string(crs),
            transform or rasterio.Affine.identity(),
        )
        assert file.colormap(1)[1][:3] == data.space.colours[1]
    # the field's own tool burns the polygons, brought to the map of the image, into the same mask
    shapes = [(f["geometry"], f["properties"]["class_id"]) for f in features(tmp_path / "b/polygons/train/t0.geojson")]
    if crs:
        shapes = [(warp.transform_geom("EPSG:4326", crs, shape), value) for shape, value in shapes]
    burnt = burn.rasterize(shapes, SIZE, transform=transform or rasterio.Affine.identity())
    np.testing.assert_array_equal(burnt, samples[0].target.labels)


@pytest.mark.parametrize(("place", "unit", "pixel"), [("utm", "square metre", 0.25), ("turned", "square metre", 0.25),
    ("feet", "square US survey foot", 1), ("map", "square map unit", 4), ("none", "pixel", 1)])  # fmt: skip
def test_areas_are_those_of_the_pixels_in_map_units(tmp_path, place, unit, pixel):
    data = open_data(folder(tmp_path / "a", place), format="geotiff", val_share=0)
    write_data([first(data)], tmp_path / "b", format="geotiff", space=data.space)
    found = [f["properties"] for f in features(tmp_path / "b/polygons/train/t0.geojson")]
    assert {item["area_unit"] for item in found} == {unit}
    for label in (1, 2):
        area = sum(item["area"] for item in found if item["class_id"] == label)
        assert area == pytest.approx((first(data).target.labels == label).sum() * pixel, rel=1e-8)


def test_areas_in_degrees_are_square_metres_on_the_ellipsoid(tmp_path):
    whole = np.array([[-180.0, -90], [180, -90], [180, 90], [-180, 90]])
    crs = reference_system("EPSG:4326").to_wkt()
    place = Place((1, 0, 0, 0, -1, 0), crs)
    assert ring_area(whole, place) == pytest.approx(510_065_621_724_089, rel=1e-9)  # the surface of WGS 84
    data = open_data(folder(tmp_path / "a", "degrees"), val_share=0)
    write_data([first(data)], tmp_path / "b", format="geotiff", space=data.space)
    found = [f["properties"] for f in features(tmp_path / "b/polygons/train/t0.geojson")]
    # beside it: the side lengths of a pixel in the middle, from the radii of curvature
    phi, a, e2 = np.radians(35.6 - 20e-5), 6378137.0, 0.00669437999014
    w = np.sqrt(1 - e2 * np.sin(phi) ** 2)
    side = np.radians(1e-5)
    pixel = a * np.cos(phi) / w * side * a * (1 - e2) / w**3 * side
    area = sum(item["area"] for item in found)
    assert area == pytest.approx((first(data).target.labels > 0).sum() * pixel, rel=1e-5)
    assert {item["area_unit"] for item in found} == {"square metre"}


def test_rings_turn_as_rfc_7946_says_and_holes_are_holes(tmp_path):
    labels = np.zeros(SIZE, np.uint8)
    labels[5:30, 5:40], labels[10:20, 10:20], labels[12:15, 12:15] = 1, 0, 2
    image = tiff(tmp_path / "images/a.tif", picture())
    target = SemanticMap(labels, SPACE, scores=np.where(labels == 2, 0.5, 0.9).astype(np.float32))
    write_data(
        [Sample(read_image(image), target, name="a", source=image)], tmp_path / "b", format="geotiff", space=SPACE
    )
    found = {f["properties"]["class"]: f for f in features(tmp_path / "b/polygons/train/a.geojson")}
    assert found["road"]["properties"]["score"] == 0.9
    assert found["house"]["properties"]["score"] == 0.5
    outer, hole = (np.array(ring) for ring in found["road"]["geometry"]["coordinates"])
    area = lambda ring: (ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]).sum()  # noqa: E731
    assert area(outer - outer[0]) > 0 > area(hole - hole[0])
    assert (outer[0] == outer[-1]).all()
    assert 136 < outer[:, 0].mean() < 142


@pytest.mark.parametrize("place", ["utm", "degrees", "none"])
def test_overlapping_objects_of_two_classes_come_back(tmp_path, place):
    image = tiff(tmp_path / "images/a.tif", picture(), place)
    target = objects((1, 1, 30, 30), (3, 3, 12, 9), (40, 0, 60, 40), ids=[7, 90000, 3])
    sample = Sample(read_image(image), target, name="a", source=image)
    written = write_data([sample], tmp_path / "b", format="geotiff", space=target.space)
    assert any("objects overlap" in note for note in written.notes)
    found = first(open_data(tmp_path / "b", val_share=0)).target
    assert found.space == target.space
    assert found.labels.tolist() == [0, 1, 0]
    assert found.ids.tolist() == [7, 90000, 3]
    np.testing.assert_array_equal(found.masks.dense(), target.masks.dense())
    with rasterio.open(tmp_path / "b/masks/train/a.tif") as file:
        assert (file.dtypes, file.nodata) == (("uint32",), 0)
        assert file.read(1)[5, 5] == 90000


def test_segments_come_back(tmp_path):
    space = LabelSpace(("sky", "car"), (False, True))
    ids = np.zeros(SIZE, np.int32)
    ids[:20], ids[25:30, 5:9], ids[25:30, 20:30], ids[35:, 50:] = 4, 9, 2, 9
    image = tiff(tmp_path / "images/a.tif", picture())
    target = Panoptic(ids, np.array([2, 4, 9], np.int32), np.array([1, 0, 1], np.int32), space)
    write_data(
        [Sample(read_image(image), target, name="a", source=image)], tmp_path / "b", format="geotiff", space=space
    )
    found = first(open_data(tmp_path / "b", val_share=0)).target
    np.testing.assert_array_equal(found.ids, ids)
    assert dict(zip(found.segment_ids.tolist(), found.labels.tolist(), strict=True)) == {2: 1, 4: 0, 9: 1}
    assert found.space == space


def test_multi_label_maps_have_a_band_per_class(tmp_path):
    space = LabelSpace(("wet", "green"), exclusive=False)
    labels = np.stack([blobs(1, 2), blobs(2, 2)], axis=2)
    labels[0, 0, 1] = IGNORE
    image = tiff(tmp_path / "images/a.tif", picture())
    sample = Sample(read_image(image), SemanticMap(labels, space), name="a", source=image)
    write_data([sample], tmp_path / "b", format="geotiff", space=space)
    data = open_data(tmp_path / "b", val_share=0)
    assert data.space == space
    np.testing.assert_array_equal(first(data).target.labels, labels)


def test_a_tolerance_loses_something_and_says_how_much(tmp_path):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    labels = ((x - 30) ** 2 + (y - 20) ** 2 < 250).astype(np.uint8)
    image = tiff(tmp_path / "images/a.tif", picture())
    sample = Sample(read_image(image), SemanticMap(labels, SPACE), name="a", source=image)
    written = write_data(
        [sample], tmp_path / "b", format="geotiff", space=SPACE, settings=WriteSettings(tolerance=1)
    )  # fmt: skip
    assert any("IoU with the mask 0.9" in note for note in written.notes)


def test_a_world_file_and_a_png_become_geotiff(tmp_path):
    Image.fromarray(np.moveaxis(picture(), 0, 2)).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text("0.5\n0\n0\n-0.5\n400000.25\n3949999.75\n")
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(picture(), 0, 2), photometric="rgb")
    (tmp_path / "b.tfw").write_text((tmp_path / "a.pgw").read_text())
    target = SemanticMap(blobs(), SPACE)
    samples = [Sample(read_image(p), target, name=p.stem, source=p) for p in (tmp_path / "a.png", tmp_path / "b.tif")]
    write_data(samples, tmp_path / "out", format="geotiff", space=SPACE)
    for sample in samples:
        path = tmp_path / f"out/images/train/{sample.name}.tif"
        np.testing.assert_array_equal(read_image(path), sample.image)
        with rasterio.open(path) as file:
            assert file.transform == UTM


def square(*properties, crs=None, kind="Polygon", left=10, top=8):
    """Features of 20 x 10 pixels on the UTM grid, in degrees unless `crs` is given."""
    shapes = []
    for i, found in enumerate(properties):
        x, y = 400000 + (left + 5 * i) * 0.5, 3950000 - top * 0.5
        ring = [[x, y], [x + 10, y], [x + 10, y - 5], [x, y - 5], [x, y]]
        shape = {"type": "Polygon", "coordinates": [ring]}
        shape = shape if crs else warp.transform_geom("EPSG:32654", "EPSG:4326", shape)
        shapes.append({"type": "Feature", "properties": found, "geometry": {**shape, "type": kind}})
    plain = {"type": "FeatureCollection", "features": shapes}
    return {**plain, "crs": {"type": "name", "properties": {"name": crs}}} if crs else plain


@pytest.mark.parametrize("crs", [None, "urn:ogc:def:crs:EPSG::32654"])
@pytest.mark.parametrize("shared", [False, True])
def test_polygons_of_others_are_burnt_onto_the_grid(tmp_path, crs, shared):
    for i in range(2):
        tiff(tmp_path / f"images/t{i}.tif", picture())
        text = json.dumps(square({"class": "house"}, {"class": "pool"}, crs=crs))
        path = tmp_path / ("all.geojson" if shared else f"labels/t{i}.geojson")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    data = open_data(tmp_path)
    assert (data.format, data.space.names, data.space.things) == ("geotiff", ("house", "pool"), (True, True))
    target = first(data).target
    assert target.labels.tolist() == [0, 1]
    expected = np.zeros((2, *SIZE), np.uint8)
    expected[0, 8:18, 10:30], expected[1, 8:18, 15:35] = 1, 1
    np.testing.assert_array_equal(target.masks.dense(), expected)
    assert first(data).spacing == (0.5, 0.5)


def test_polygons_of_one_class_without_a_property_need_its_name(tmp_path):
    tiff(tmp_path / "images/t.tif", picture())
    tiff(tmp_path / "images/u.tif", picture())
    (tmp_path / "labels").mkdir()
    for name in "tu":
        (tmp_path / f"labels/{name}.geojson").write_text(json.dumps(square({"height": 3}) if name == "t" else square()))
    with pytest.raises(UserError, match=r"no property of the polygons names their class .* found height"):
        open_data(tmp_path)
    (tmp_path / "data.yaml").write_text("classes: [house]\n")
    data = open_data(tmp_path / "data.yaml")
    counts = {record.name: len(data.read_target(record)) for part in data.splits.values() for record in part}
    assert counts == {"t": 1, "u": 0}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (square({"class": "a"}, left=9000), r"none of its 1 polygons lies in an image"),
        (square({"class": "a"}, crs="EPSG:32653"), r"none of its 1 polygons lies in an image"),
        (square({"class": "a"}, crs="EPSG:0"), r"There is no coordinate reference system"),
        (square({"class": "a"}, kind="LineString"), r"feature 1: a LineString has no area"),
        ({"type": "Topology"}, r"FeatureCollection"),
        ('{"type": "FeatureCollection", "features": [', r"cannot be read as GeoJSON .* cut off"),
        (square({"class": "a"}, {"other": 1}), r"feature 2 has no class"),
    ],
)
def test_polygons_that_cannot_be_used_are_refused_by_name(tmp_path, plain, message):
    tiff(tmp_path / "images/t.tif", picture())
    (tmp_path / "polygons").mkdir()
    (tmp_path / "polygons/t.geojson").write_text(plain if isinstance(plain, str) else json.dumps(plain))
    if "feature 2" in message:
        (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=message) as error:
        open_data(tmp_path)
    assert "t.geojson" in str(error.value) or "EPSG:0" in str(error.value)


def test_cut_off_and_foreign_files_are_named(tmp_path):
    folder(tmp_path)
    path = tmp_path / "masks/t1.tif"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:6], b"hello, this is text"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"t1\.tif"):
            open_data(tmp_path)


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    folder(tmp_path)
    real = builtins.__import__

    def absent(name, *rest, **more):
        if name.partition(".")[0] == "rasterio":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r'pip install "nuriwake\[geo\]"'):
        open_data(tmp_path)
    assert open_data(tmp_path, format="mask_folder").space.names == SPACE.names
