"""Fills the directories of pypi.org, files.pythonhosted.org, registry.npmjs.org, index.crates.io and static.crates.io, each
with one package whose bytes every client checks against a hash. The argument is the directory of sites."""
import base64
import hashlib
import io
import json
import pathlib
import sys
import tarfile
import zipfile

sites = pathlib.Path(sys.argv[1])


def put(host, path, data):
    place = sites / host / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data if isinstance(data, bytes) else data.encode())


def archive(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


# Large enough for several frames, and not compressible.
ballast = base64.b64encode(b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(20_000))).decode()

wheel = io.BytesIO()
info = "caracal_demo-1.0.dist-info"
members = {
    "caracal_demo/__init__.py": "def said():\n    return 'hello from the wheel'\n",
    "caracal_demo/ballast.txt": ballast,
    f"{info}/METADATA": "Metadata-Version: 2.1\nName: caracal-demo\nVersion: 1.0\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
with zipfile.ZipFile(wheel, "w") as packed:
    for name, text in members.items():
        packed.writestr(name, text)
    packed.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"]))
name = "caracal_demo-1.0-py3-none-any.whl"
put("files.pythonhosted.org", f"packages/{name}", wheel.getvalue())
digest = hashlib.sha256(wheel.getvalue()).hexdigest()
url = f"https://files.pythonhosted.org/packages/{name}#sha256={digest}"
put("pypi.org", "simple/caracal-demo/index.html", f'<!DOCTYPE html><html><body><a href="{url}">{name}</a></body></html>')

package = {"name": "caracal-demo", "version": "1.0.0", "main": "index.js"}
tarball = archive({
    "package/package.json": json.dumps(package),
    "package/index.js": "exports.said = () => 'hello from the package';\n",
    "package/ballast.txt": ballast,
})
put("registry.npmjs.org", "caracal-demo/-/caracal-demo-1.0.0.tgz", tarball)
integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
dist = {"tarball": "https://registry.npmjs.org/caracal-demo/-/caracal-demo-1.0.0.tgz", "integrity": integrity}
document = {"name": "caracal-demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**package, "dist": dist}}}
put("registry.npmjs.org", "caracal-demo/index.json", json.dumps(document))

manifest = '[package]\nname = "caracal-demo"\nversion = "1.0.0"\nedition = "2021"\n'
crate = archive({
    "caracal-demo-1.0.0/Cargo.toml": manifest,
    "caracal-demo-1.0.0/src/lib.rs": "pub fn said() -> &'static str {\n    \"hello from the crate\"\n}\n",
    "caracal-demo-1.0.0/ballast.txt": ballast,
})
put("static.crates.io", "crates/caracal-demo/1.0.0/download", crate)
put("index.crates.io", "config.json", json.dumps({"dl": "https://static.crates.io/crates", "api": "https://crates.io"}))
checksum = hashlib.sha256(crate).hexdigest()
line = {"name": "caracal-demo", "vers": "1.0.0", "deps": [], "cksum": checksum, "features": {}, "yanked": False}
put("index.crates.io", "ca/ra/caracal-demo", json.dumps(line) + "\n")
print("registries: done")
