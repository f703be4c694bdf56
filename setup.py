"""Packaging metadata lives in settings.ini; this file only hands it to setuptools."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(HERE / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]


def lines(key: str) -> list[str]:
    return [line for line in cfg.get(key, "").splitlines() if line.strip()]


lib = cfg["lib_path"]
presets = lib + ".presets"  # configs/ at the top of the checkout, importable once installed
competitions = presets + ".competitions"

optional = ("notebook", "parquet", "hub", "mlflow", "kaggle", "search", "onnx", "ray")     # all of which the tests use
extras = {name: lines(f"{name}_requirements") for name in (*optional, "cuda12", "cuda13")}
extras["dev"] = [*(line for name in optional for line in extras[name]), *lines("dev_requirements")]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"].split(),
    url=cfg["git_url"],
    license="Apache-2.0",
    python_requires=">=" + cfg["min_python"],
    packages=[*find_packages(include=[lib, lib + ".*"]), presets, competitions],
    package_dir={presets: "configs", competitions: "configs/competitions"},
    package_data={lib: ["py.typed", "runtime/compiler/g++", "demo/*/*", "models/*.py.txt", "widgets/static/*"],
                  presets: ["*.yaml"], competitions: ["*.yaml"]},
    install_requires=lines("requirements"),
    extras_require=extras,
    entry_points={
        "console_scripts": [cfg["console_scripts"]],
        "nbdev": [f"{lib}={lib}._modidx:d"],
    },
    zip_safe=False,
)
