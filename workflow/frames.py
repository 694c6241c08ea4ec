"""The type of a data frame in annotations."""

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    Table = Any
    """pandas infers unions that no checker can follow; a frame is Any to it."""
else:
    Table = pd.DataFrame
