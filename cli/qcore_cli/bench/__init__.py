"""How fast jobs run through this machine and this Redis."""
