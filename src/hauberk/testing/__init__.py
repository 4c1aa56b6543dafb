"""For tests: the contract that every attack keeps, and victims whose optimum is known in closed form.

from hauberk.testing import check
check(MyAttack(steps=20), bars={Norm.LINF: 1.01})
"""

from hauberk.testing.closed_form import LinearVictim, ThresholdVictim
from hauberk.testing.contract import breaks_at, check, check_optimum, laws, linear_settings

__all__ = ["LinearVictim", "ThresholdVictim", "breaks_at", "check", "check_optimum", "laws", "linear_settings"]
