"""Sound bounds of what a layered network can give over a region of inputs: a traversal and a table of rules."""

from hauberk.bounds.crown import Ranges, lower_bounds, ranges_of, require_bounds, supports
from hauberk.bounds.inputs import Inputs

__all__ = ["Inputs", "Ranges", "lower_bounds", "ranges_of", "require_bounds", "supports"]
