"""The packages: those below gradlab/, and studies/ under the name gradlab_studies. Everything else: pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["gradlab", "gradlab.*"]), "gradlab_studies"],
    package_dir={"gradlab_studies": "studies"},
)
