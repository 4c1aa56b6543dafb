"""Labelled data sets, streamed: `load` takes a name, a path or arrays and gives a `Source` of chunks."""

from hauberk.data.arrays import Arrays
from hauberk.data.builtin import names
from hauberk.data.folder import Folder
from hauberk.data.load import load
from hauberk.data.npz import Npz
from hauberk.data.pairs import Pairs
from hauberk.data.parquet import Parquet
from hauberk.data.source import Chunk, Source

__all__ = ["Arrays", "Chunk", "Folder", "Npz", "Pairs", "Parquet", "Source", "load", "names"]
