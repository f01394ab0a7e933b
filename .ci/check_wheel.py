"""Check that a wheel ships every tracked file of `recsim_env`, its metadata, and nothing else."""

import subprocess
import sys
import zipfile


def check(wheel: str) -> str:
    """Return one sentence on the wheel's size; exit with one on what is wrong."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {
            info.filename: info.compress_size for info in archive.infolist() if not info.is_dir()
        }
    shipped = {name for name in sizes if not name.split("/")[0].endswith(".dist-info")}
    listing = subprocess.run(
        ["git", "ls-files", "recsim_env"], capture_output=True, text=True, check=True
    )
    tracked = set(listing.stdout.split())
    if foreign := sorted(name for name in shipped if not name.startswith("recsim_env/")):
        sys.exit(f"{wheel} ships files outside recsim_env: {foreign[:10]}")
    if missing := sorted(tracked - shipped):
        sys.exit(f"{wheel} lacks {missing[:10]}: name them under [tool.setuptools.package-data]")
    if extra := sorted(shipped - tracked):
        sys.exit(f"{wheel} ships files that git does not know: {extra[:10]}")
    if not any(name.endswith("/licenses/LICENSE") for name in sizes):
        sys.exit(f"{wheel} ships no LICENSE")
    return f"{len(shipped)} files of recsim_env, {sum(sizes.values()) / 2**20:.1f} MiB, and nothing else"


if __name__ == "__main__":
    print(check(sys.argv[1]))
