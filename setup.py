"""Install nsf_nb from settings.ini, the one description of the package."""

import configparser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
STATUS = {"2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}


def read_settings():
    """The DEFAULT section of settings.ini."""
    parser = configparser.ConfigParser(delimiters=["="], interpolation=None)
    parser.read(HERE / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def read_extras(cfg):
    """Each key `<name>_requirements` is the extra `<name>`; `all` is everything that users may want."""
    suffix = "_requirements"
    extras = {key.removesuffix(suffix): value.split() for key, value in cfg.items() if key.endswith(suffix)}
    extras["all"] = sorted({item for name, items in extras.items() if name not in ("dev", "docs") for item in items})
    return extras


cfg = read_settings()
readme = HERE / "README.md"
setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else cfg["description"],
    long_description_content_type="text/markdown",
    author=cfg["author"],
    url=cfg["git_url"],
    license=cfg["license"],
    keywords=cfg["keywords"],
    packages=find_packages(include=[cfg["lib_name"], cfg["lib_name"] + ".*"]),
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require=read_extras(cfg),
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    classifiers=[
        f"Development Status :: {STATUS[cfg['status']]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Bio-Informatics",
    ],
    zip_safe=False,
)
